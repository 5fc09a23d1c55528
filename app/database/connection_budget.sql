-- The limits of the server, of the database and of the role, and the sessions that use them.
-- Without special rights the server hides the backend type of other roles' sessions, so NULL counts as a
-- client.
SELECT current_setting('max_connections')::int,
    current_setting('superuser_reserved_connections')::int
        + COALESCE(current_setting('reserved_connections', true), '0')::int,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
    count(*) FILTER (WHERE is_ours), count(*) FILTER (WHERE NOT is_ours)
FROM (
    SELECT datname = current_database() AND usename = current_user AND application_name <> '' AS is_ours
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND usename IS NOT NULL
        AND COALESCE(backend_type, 'client backend') = 'client backend'
) AS session
