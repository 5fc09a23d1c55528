"""Maintenance of the data: counting and deletion of test data."""
