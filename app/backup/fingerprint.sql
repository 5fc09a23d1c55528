-- Queries of fingerprint.py: what a backup contains besides the rows of tables.

-- query: not_built_in
-- pg_dump dumps every schema, but neither system objects nor members of extensions.
nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = {catalog}::regclass AND objid = {alias}.oid
    AND deptype = 'e')

-- query: extension_tables
-- An extension can have rows of its tables dumped (extconfig). The extension restores them, so the manifest
-- does not list these tables.
SELECT quote_ident(nspname) || '.' || quote_ident(relname)
FROM pg_extension CROSS JOIN unnest(extconfig) AS config
JOIN pg_class ON pg_class.oid = config JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' ORDER BY 1

-- query: large_objects
-- Read in pieces of 1 MB, because a large object may exceed the size limit of a value. The hash includes the
-- OIDs, because rows refer to large objects by OID.
WITH RECURSIVE pieces (id, number, size, hash) AS (
    SELECT pg_largeobject_metadata.oid, 0::bigint, length(piece), sha256(piece)
    FROM pg_largeobject_metadata CROSS JOIN LATERAL (
        SELECT lo_get(pg_largeobject_metadata.oid, 0, 1000000) AS piece OFFSET 0) AS first
    UNION ALL
    SELECT id, number + 1, length(piece), sha256(piece)
    FROM pieces CROSS JOIN LATERAL (
        SELECT lo_get(id, (number + 1) * 1000000, 1000000) AS piece OFFSET 0) AS following
    WHERE size = 1000000
)
SELECT count(DISTINCT id),
    encode(sha256(string_agg(oidsend(id) || hash, ''::bytea ORDER BY id, number)), 'hex')
FROM pieces

-- query: sequences
SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename), last_value FROM pg_sequences
WHERE last_value IS NOT NULL AND increment_by > 0 ORDER BY 1
