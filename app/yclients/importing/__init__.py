"""Import of files with YClients payloads."""
