"""Runner of the Alembic migrations, and the functions that migrations use."""
