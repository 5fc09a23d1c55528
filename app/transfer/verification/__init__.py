"""Comparison of both sides: verification of all rows, repair of differences, and shadow reads."""
