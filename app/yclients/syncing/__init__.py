"""Sync of a company with the YClients API."""
