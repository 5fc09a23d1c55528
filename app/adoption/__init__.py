"""Adoption of databases that are older than the Alembic migrations: checks, duplicate rows, archived rows."""
