"""Logs, metrics, Sentry reports and slow queries, for every Frontdesk program."""
