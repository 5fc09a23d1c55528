-- Fence and change capture; change_capture.py fills in the {values} and runs the statements.
--
-- Invariant: a transaction commits a write only on a side that is open when it takes the lock of `enter()`, and
-- in the same transaction as the keys of the changed rows in `marks`. The relay is excepted on the standby.

-- query: functions
-- `enter()` raises FD001 unless the calling transaction may write here. Its shared advisory lock keeps the
-- side from closing until the transaction ends; `close` and `hand_over` take the lock exclusively. The
-- function is VOLATILE so that each of its statements has its own snapshot: the snapshot that reads the row is
-- then taken after the lock. A REPEATABLE READ or SERIALIZABLE transaction has one snapshot for all statements
-- and would still read the old row. There, FOR SHARE raises a serialization failure if the row has changed
-- since the snapshot, and the function raises one if the snapshot is older than the row.
CREATE OR REPLACE FUNCTION frontdesk_transfer.enter() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE present frontdesk_transfer.side;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({fence_lock});
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        SELECT * INTO present FROM frontdesk_transfer.side;
    ELSE
        SELECT * INTO present FROM frontdesk_transfer.side FOR SHARE;
        IF NOT FOUND THEN
            RAISE serialization_failure USING
                MESSAGE = 'the transfer of this database began after the snapshot of this transaction';
        END IF;
    END IF;
    IF present.state = 'open' OR (present.state = 'standby' AND {is_relay})
        OR (present.state = 'closing' AND present.until < clock_timestamp()) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'this database is being transferred and accepts no writes now' USING
        ERRCODE = {fenced_sqlstate}, HINT = 'Run the transaction again, on the side that is live.';
END $frontdesk$;

CREATE OR REPLACE FUNCTION frontdesk_transfer.fence() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM frontdesk_transfer.enter();
    RETURN NULL;
END $frontdesk$;

CREATE OR REPLACE FUNCTION frontdesk_transfer.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $frontdesk$
BEGIN
    RAISE EXCEPTION 'TRUNCATE is refused while the database is being transferred' USING
        ERRCODE = 'feature_not_supported', HINT = 'Use DELETE: change capture can record its rows.';
END $frontdesk$;

-- query: capture of a table
SELECT pg_catalog.pg_advisory_xact_lock({setup_lock});
-- An UPDATE records the old and the new keys. UNION compares them in their own types, which is cheaper than
-- comparing arrays of text.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp {settings} AS $frontdesk$
BEGIN
    IF {is_relay} THEN
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key} FROM new_rows AS changed;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key} FROM old_rows AS changed;
    ELSE
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key}
        FROM (SELECT {columns} FROM old_rows UNION SELECT {columns} FROM new_rows) AS changed;
    END IF;
    RETURN NULL;
END $frontdesk$;

-- Statement-level triggers with transition tables: a merge of 20,000 rows calls them once.
CREATE OR REPLACE TRIGGER {fence} BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION frontdesk_transfer.fence();
CREATE OR REPLACE TRIGGER {truncate} BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION frontdesk_transfer.refuse_truncate();
CREATE OR REPLACE TRIGGER {insert} AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {update} AFTER UPDATE ON {table}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {delete} AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {fence}, ENABLE ALWAYS TRIGGER {truncate},
    ENABLE ALWAYS TRIGGER {insert}, ENABLE ALWAYS TRIGGER {update}, ENABLE ALWAYS TRIGGER {delete};

-- query: tables without triggers
SELECT moved.table_name FROM frontdesk_transfer.moved
WHERE (
    SELECT count(*) FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname || '.' || relname = moved.table_name AND tgname = ANY(%(names)s) AND tgenabled = 'A'
) < cardinality(%(names)s)
ORDER BY position

-- query: transfer triggers
-- Include tables that are no longer recorded in `moved`, so that `finish` leaves no trigger behind.
SELECT nspname, relname, array_agg(tgname::text ORDER BY tgname) FROM pg_catalog.pg_trigger
    JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE tgname = ANY(%(names)s) AND NOT tgisinternal
GROUP BY nspname, relname ORDER BY nspname, relname
