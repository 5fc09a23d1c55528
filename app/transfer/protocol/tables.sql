-- Catalog queries of tables.py: the tables that can be transferred, their columns, keys and foreign keys.
-- Parameters: `own`, the schemas of the transfer itself; `tables`, the oids of the tables.

-- query: tables
-- Exclude system tables, tables of extensions, and temporary tables: they hold no application data.
SELECT pg_class.oid, nspname, relname, relkind::text, relpersistence::text
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'f') AND relpersistence <> 't'
    AND nspname NOT LIKE 'pg\_%%' AND nspname <> 'information_schema' AND nspname <> ALL (%(own)s)
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend
        WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
    )
ORDER BY nspname, relname

-- query: columns
-- The last column is true if COPY in binary format is safe. For arrays and composite values, binary COPY
-- writes the oid of the element or field type, and the oids of user-defined types differ between servers.
SELECT attrelid, attname, pg_catalog.format_type(atttypid, atttypmod),
    pg_type.oid < 16384 OR typtype = 'e' OR (typtype = 'd' AND typbasetype < 16384)
FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_type ON pg_type.oid = atttypid
WHERE attrelid = ANY(%(tables)s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attrelid, attnum

-- query: keys
SELECT indrelid, attname
FROM pg_catalog.pg_index
    CROSS JOIN LATERAL unnest(indkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = number
WHERE indrelid = ANY(%(tables)s) AND indisprimary AND place <= indnkeyatts
ORDER BY indrelid, place

-- query: foreign_keys
SELECT conrelid, conname, confrelid, condeferrable, confdeltype::text, confupdtype::text
FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND conrelid = ANY(%(tables)s) AND conparentid = 0
ORDER BY conrelid, conname
