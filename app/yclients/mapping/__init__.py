"""Mapping of YClients payloads to rows."""
