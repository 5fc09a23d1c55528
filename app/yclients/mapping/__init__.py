"""Mapping of YClients payloads to rows with Frontdesk's columns."""
