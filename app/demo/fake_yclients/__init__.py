"""A fake YClients API, to run and test a sync against."""
