"""Moving a live database from one PostgreSQL (legacy) to another (primary) without losing a write."""
