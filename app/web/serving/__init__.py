"""Serving HTTP with gunicorn: worker, load shedding, request hooks, tokens."""
