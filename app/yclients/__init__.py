"""Integration with YClients: API client, mapping of payloads, import, sync and webhook."""
