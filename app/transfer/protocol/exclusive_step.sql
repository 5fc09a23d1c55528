-- Sessions that hold a lock that a step waits for: a write lock on a table, or the set-up lock.
SELECT DISTINCT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int
FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
    LEFT JOIN pg_catalog.pg_class ON pg_class.oid = relation
    LEFT JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND (
        (mode = 'RowExclusiveLock' AND relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\_%')
        OR (locktype = 'advisory' AND objsubid = 1
            AND (classid::bigint << 32) | objid::bigint = {setup_lock})
    )
ORDER BY 3 DESC NULLS LAST
