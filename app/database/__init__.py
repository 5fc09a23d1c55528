"""Access to PostgreSQL: connections, pool, live side, bulk merge, embedded server."""
