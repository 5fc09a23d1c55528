"""Maintenance of the data: find and remove test data."""
