"""What callers may write: one typed mapping per kind of row, validated by pydantic."""
