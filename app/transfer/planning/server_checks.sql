-- Catalog queries of server_checks.py, for one side. Parameters: `tables`, the names of the transferred tables;
-- `own`, the schema of the transfer; `long`, in seconds, the age of a long transaction.

-- query: database
SELECT has_database_privilege(current_database(), 'CREATE'),
    has_schema_privilege('public', 'USAGE'),
    pg_is_in_recovery(),
    (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
    (SELECT count(*) FROM pg_largeobject_metadata),
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - make_interval(secs => %(long)s)),
    current_user

-- query: rights
SELECT nspname || '.' || relname, pg_has_role(relowner, 'USAGE'),
    has_table_privilege(pg_class.oid, 'SELECT') AND has_table_privilege(pg_class.oid, 'INSERT')
        AND has_table_privilege(pg_class.oid, 'UPDATE') AND has_table_privilege(pg_class.oid, 'DELETE'),
    row_security_active(pg_class.oid),
    EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid OR inhparent = pg_class.oid)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname || '.' || relname = ANY (%(tables)s) ORDER BY 1

-- query: triggers_and_rules
SELECT nspname || '.' || relname, tgname, 'trigger'
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
    AND pronamespace IS DISTINCT FROM to_regnamespace(%(own)s)::oid
    AND nspname || '.' || relname = ANY (%(tables)s)
UNION ALL
SELECT schemaname || '.' || tablename, rulename, 'rule'
FROM pg_rules WHERE schemaname || '.' || tablename = ANY (%(tables)s)
ORDER BY 1, 2

-- query: locale
SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text,
    datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
FROM pg_database WHERE datname = current_database()

-- query: old_locale
SELECT pg_encoding_to_char(encoding), datcollate, datctype, 'c', false
FROM pg_database WHERE datname = current_database()
