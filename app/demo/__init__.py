"""Demos, generated traffic and a fake YClients API. The services do not import this package."""
