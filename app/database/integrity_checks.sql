-- Catalog queries of integrity_checks.py.

-- query: constraints
SELECT conrelid::regclass::text, conname FROM pg_constraint
WHERE NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1, 2

-- query: indexes
-- An index that is being built at this moment is invalid too, but not a defect.
SELECT pg_index.indrelid::regclass::text, pg_index.indexrelid::regclass::text FROM pg_index
JOIN pg_class ON pg_class.oid = pg_index.indexrelid
WHERE NOT (indisvalid AND indisready) AND relnamespace = current_schema()::regnamespace
    AND NOT EXISTS (
        SELECT FROM pg_stat_progress_create_index AS build WHERE build.index_relid = pg_index.indexrelid
    )
ORDER BY 1, 2

-- query: sequences
SELECT sequence.relname, owner.relname, attname, seqincrement FROM pg_depend
JOIN pg_sequence ON seqrelid = objid
JOIN pg_class AS sequence ON sequence.oid = objid
JOIN pg_class AS owner ON owner.oid = refobjid
JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
    AND owner.relnamespace = current_schema()::regnamespace
ORDER BY 1
