"""Adoption of databases that existed before Alembic: checks, duplicate rows, archived rows."""
