"""The initial copy of rows from legacy to primary, in chunks."""
