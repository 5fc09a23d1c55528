-- The tables of a transfer on each side. The protocol's whole state is the row in `side`. Every statement keeps
-- what exists, so that `start` can be run again.

CREATE SCHEMA IF NOT EXISTS frontdesk_transfer;

-- One row: the name of this side, and whether it accepts writes. A closing side counts as open after `until`.
CREATE TABLE IF NOT EXISTS frontdesk_transfer.side (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    name text NOT NULL CHECK (name IN ('legacy', 'primary')),
    state text NOT NULL CHECK (state IN ('open', 'closing', 'standby')),
    epoch bigint NOT NULL,
    attempt bigint NOT NULL DEFAULT 0,
    until timestamptz CHECK (until IS NOT NULL OR state <> 'closing')
);

-- The change log: keys of rows that have changed and are not on the other side yet. Keys are never NULL.
CREATE TABLE IF NOT EXISTS frontdesk_transfer.marks (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    key text[] NOT NULL,
    at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- The tables that are transferred, parents before children.
CREATE TABLE IF NOT EXISTS frontdesk_transfer.moved (
    table_name text PRIMARY KEY,
    key_columns text[] NOT NULL,
    position integer NOT NULL UNIQUE
);

-- Used on the side that is copied to: the progress of each table, and the block ranges that are copied. Block
-- numbers refer to the source's file `file`. VACUUM FULL writes a new file, which makes them meaningless.
CREATE TABLE IF NOT EXISTS frontdesk_transfer.copied (
    table_name text PRIMARY KEY,
    file oid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE TABLE IF NOT EXISTS frontdesk_transfer.stretches (
    table_name text NOT NULL,
    first_block bigint NOT NULL,
    end_block bigint NOT NULL,
    rows bigint NOT NULL,
    PRIMARY KEY (table_name, first_block)
);

-- Used on the live side: the relay's last apply cycle.
CREATE TABLE IF NOT EXISTS frontdesk_transfer.relay (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    began_at timestamptz,
    finished_at timestamptz,
    marks bigint NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0
);
INSERT INTO frontdesk_transfer.relay DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS frontdesk_transfer.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    step text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS frontdesk_transfer.verifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    equal boolean NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);

-- Services read the row. The change log is private to the transfer's role.
GRANT USAGE ON SCHEMA frontdesk_transfer TO PUBLIC;
GRANT SELECT ON frontdesk_transfer.side TO PUBLIC;
