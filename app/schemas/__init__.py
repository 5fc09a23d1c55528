"""Schemas of the rows that callers write: one TypedDict per kind of row, validated by pydantic."""
