-- All objects that are not parts of the transferred tables, by kind: name, definition, and the object's
-- schema, catalog table and oid. catalog.py filters the rows.
-- Parameters: `tables`, the oids of the transferred tables; `texts`, whether to include the generated text of
-- views and SQL function bodies.

-- query: view
SELECT oid::regclass::text, concat_ws(' ',
        CASE relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END,
        '(' || (SELECT string_agg(format('%%I %%s', attname, format_type(atttypid, atttypmod)), ', '
            ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped) || ')',
        CASE WHEN %(texts)s THEN 'AS' || pg_get_viewdef(oid) END),
    relnamespace, 'pg_class', oid
FROM pg_class WHERE relkind IN ('v', 'm')

-- query: sequence
SELECT seqrelid::regclass::text,
    format('%%s INCREMENT %%s MINVALUE %%s MAXVALUE %%s%%s', format_type(seqtypid, NULL),
        seqincrement, seqmin, seqmax, CASE WHEN seqcycle THEN ' CYCLE' ELSE '' END),
    relnamespace, 'pg_class', seqrelid
FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid
WHERE NOT EXISTS (SELECT FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND objid = seqrelid AND deptype IN ('a', 'i'))

-- query: function
SELECT format('%%s(%%s)', pg_proc.oid::regproc, pg_get_function_identity_arguments(pg_proc.oid)),
    concat_ws(' ',
        CASE prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
        'RETURNS ' || pg_get_function_result(pg_proc.oid), 'LANGUAGE ' || lanname,
        CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
        CASE WHEN prosecdef THEN 'SECURITY DEFINER' END, CASE WHEN proisstrict THEN 'STRICT' END,
        'SET ' || array_to_string(proconfig, ', '), 'AS', left(md5(prosrc || CASE
            WHEN %(texts)s THEN COALESCE(pg_get_function_sqlbody(pg_proc.oid), '') ELSE '' END), 12)),
    pronamespace, 'pg_proc', pg_proc.oid
FROM pg_proc JOIN pg_language ON pg_language.oid = prolang

-- query: type
SELECT oid::regtype::text, CASE typtype
        WHEN 'e' THEN 'ENUM (' || (SELECT string_agg(quote_literal(enumlabel), ', '
            ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = pg_type.oid) || ')'
        WHEN 'd' THEN concat_ws(' ', 'DOMAIN', format_type(typbasetype, typtypmod),
            CASE WHEN typnotnull THEN 'NOT NULL' END,
            (SELECT string_agg(pg_get_constraintdef(pg_constraint.oid), ' ' ORDER BY conname)
            FROM pg_constraint WHERE contypid = pg_type.oid AND contype = 'c'))
        WHEN 'r' THEN 'RANGE OF ' || (SELECT format_type(rngsubtype, NULL)
            FROM pg_range WHERE rngtypid = pg_type.oid)
        ELSE 'COMPOSITE (' || (SELECT string_agg(format('%%I %%s', attname,
            format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped) || ')' END,
    typnamespace, 'pg_type', oid
FROM pg_type WHERE typtype IN ('e', 'd', 'r')
    OR typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind = 'c')

-- query: collation
SELECT oid::regcollation::text,
    concat_ws(' ', collprovider::text, collcollate, collctype,
        CASE WHEN NOT collisdeterministic THEN 'nondeterministic' END),
    collnamespace, 'pg_collation', oid
FROM pg_collation

-- query: extension
SELECT extname, extversion, NULL::oid, 'pg_extension', oid FROM pg_extension

-- query: role
-- Privileges of the owner are left out: they are implied, and the owner's name differs between providers.
-- MAINTAIN is left out because it exists only in PostgreSQL 17 and newer.
SELECT CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END,
    string_agg(format('%%s ON %%s', privileges, oid::regclass), '; ' ORDER BY oid::regclass::text),
    NULL::oid, 'pg_authid', grantee
FROM (
    SELECT oid, grantee, string_agg(privilege_type, ', ' ORDER BY privilege_type) AS privileges
    FROM pg_class, aclexplode(relacl)
    WHERE oid = ANY (%(tables)s) AND grantee <> relowner AND privilege_type <> 'MAINTAIN'
    GROUP BY oid, grantee
) AS granted
GROUP BY grantee
