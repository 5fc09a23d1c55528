"""A stand-in for YClients: it answers as the API does, so that a sync can be watched and tested."""
