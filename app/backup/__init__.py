"""Backups: made from one snapshot, verified byte by byte, and proven by restoring and comparing them."""
