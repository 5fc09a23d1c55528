"""Running the Alembic revisions, and the operations that revisions use."""
