"""Sync of a company from the YClients API."""
