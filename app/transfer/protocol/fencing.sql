-- The steps of the fencing protocol, as functions; fencing.py calls them. The state of a side is its row in
-- `side`: (state, epoch, attempt).
--
--     open e  --close-->  closing e  --hand_over-->  standby e+1
--     closing e  --reopen, or the lease expires-->  open e
--     standby e  --open, after the other side is a standby at e+1-->  open e+1
--
-- Invariant: at most one side accepts writes, and a side hands over only after the other side has stored every
-- acknowledged write. Each step checks the epoch. `reopen` and `hand_over` also check the attempt, so that only
-- the command that closed the side can continue. A step that has been executed already changes nothing.
--
-- Parameters keep their names (`patience`: milliseconds to wait for the lock): CREATE OR REPLACE FUNCTION
-- cannot rename the parameters of a function that a transfer in progress has already created.

-- The lock waits for every transaction that has written, and later writers queue behind it. When this
-- function returns, every acknowledged write is committed together with its change-log entries. Closing again
-- takes over from the command that closed before. `pause` counts from the arrival of the request, so writers
-- wait at most that long.
CREATE OR REPLACE FUNCTION frontdesk_transfer.close(expected bigint, patience integer, pause integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE mine bigint;
BEGIN
    PERFORM set_config('lock_timeout', patience::text, true);
    PERFORM pg_advisory_xact_lock({fence_lock});
    UPDATE frontdesk_transfer.side SET state = 'closing', attempt = attempt + 1,
            until = statement_timestamp() + make_interval(secs => pause / 1000.0)
        WHERE state IN ('open', 'closing') AND epoch = expected RETURNING attempt INTO mine;
    RETURN mine;
END $frontdesk$;

-- Returns true without an update if the side is open already: the answer to an earlier call was lost, or the
-- lease has expired. Such a side has writers, which may hold the lock on the row.
CREATE OR REPLACE FUNCTION frontdesk_transfer.reopen(expected bigint, mine bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM FROM frontdesk_transfer.side WHERE epoch = expected AND attempt = mine
        AND (state = 'open' OR (state = 'closing' AND until < clock_timestamp()));
    IF NOT found THEN
        UPDATE frontdesk_transfer.side SET state = 'open'
            WHERE state = 'closing' AND epoch = expected AND attempt = mine;
    END IF;
    RETURN found;
END $frontdesk$;

-- This function takes the same lock as `close`. A transaction that writes after the lease has expired either
-- commits before this function reads the change log, or starts after it and reads the new row. The row is
-- read first and the log second: a single statement could wait for the row and then read the log with an
-- older snapshot.
CREATE OR REPLACE FUNCTION frontdesk_transfer.hand_over(expected bigint, mine bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE present frontdesk_transfer.side;
BEGIN
    PERFORM set_config('lock_timeout', '1000', true);
    PERFORM pg_advisory_xact_lock({fence_lock});
    SELECT * INTO present FROM frontdesk_transfer.side FOR UPDATE;
    IF (present.state, present.epoch, present.attempt) IS DISTINCT FROM ('closing', expected, mine) THEN
        RETURN 'lost';
    END IF;
    IF present.until < clock_timestamp() THEN
        RETURN 'too late';
    END IF;
    IF EXISTS (SELECT FROM frontdesk_transfer.marks) THEN
        RETURN 'not drained';
    END IF;
    UPDATE frontdesk_transfer.side SET state = 'standby', epoch = expected + 1;
    RETURN 'done';
END $frontdesk$;

CREATE OR REPLACE FUNCTION frontdesk_transfer.open(expected bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    UPDATE frontdesk_transfer.side SET state = 'open', epoch = expected + 1, attempt = 0
        WHERE state = 'standby' AND epoch = expected;
    RETURN found;
END $frontdesk$;

-- For dry runs: `try_close` closes the side and `try_row` writes the row; both roll back in the same call.
CREATE OR REPLACE FUNCTION frontdesk_transfer.try_close(expected bigint, patience integer) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM frontdesk_transfer.close(expected, patience, patience);
    RAISE 'taken back' USING ERRCODE = 'FD002';
EXCEPTION WHEN SQLSTATE 'FD002' THEN
    RETURN;
END $frontdesk$;

CREATE OR REPLACE FUNCTION frontdesk_transfer.try_row() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    UPDATE frontdesk_transfer.side SET attempt = attempt;
    RAISE 'taken back' USING ERRCODE = 'FD002';
EXCEPTION WHEN SQLSTATE 'FD002' THEN
    RETURN;
END $frontdesk$;
