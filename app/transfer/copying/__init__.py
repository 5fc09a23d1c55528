"""The copy of existing rows to the standby side, in chunks."""
