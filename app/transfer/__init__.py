"""Transfer of a live database between PostgreSQL servers, from legacy to primary, without lost writes."""
