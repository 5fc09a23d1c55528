"""Sentry and, in time, metrics and logging."""
