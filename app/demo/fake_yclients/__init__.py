"""A fake YClients API for demos and tests of the sync."""
