"""Backups that are proven: taken from one snapshot, checked byte by byte, restored and compared."""
