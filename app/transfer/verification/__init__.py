"""Comparison of both sides: verification, repair, shadow reads."""
