"""Demos, generated traffic and a fake YClients API; the product imports none of it."""
