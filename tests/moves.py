"""A minimal transfer for tests of services: two databases with a state row and a fence on each side."""

from dataclasses import dataclass

import psycopg

from app import Settings
from tests.servers import execute

COMPANY_ID = 962302
APPLICATION_NAME = "moving"  # of the services' sessions in pg_stat_activity

FENCED_TABLES = ("companies", "clients", "request_budgets", "whatsapp_states")

SIDE = """
CREATE SCHEMA frontdesk_transfer;
CREATE TABLE frontdesk_transfer.side (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    name text NOT NULL, state text NOT NULL, epoch bigint NOT NULL, attempt bigint NOT NULL DEFAULT 0,
    until timestamptz
);
INSERT INTO frontdesk_transfer.side (name, state, epoch) VALUES ('{name}', '{state}', 1);
CREATE FUNCTION frontdesk_transfer.fence() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE present text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1);
    SELECT state INTO present FROM frontdesk_transfer.side;
    IF present <> 'open' THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = 'FD001';
    END IF;
    RETURN NULL;
END $$;
"""
TRIGGER = """
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION frontdesk_transfer.fence();
"""


@dataclass
class FakeTransfer:
    """The URLs of both sides, and the steps of the transfer protocol."""

    legacy: str
    primary: str

    def settings(self, **others: object) -> Settings:
        return Settings(
            database_url=self.primary,
            legacy_database_url=self.legacy,
            **others,
        )

    def start(self) -> None:
        for url, name, state in ((self.legacy, "legacy", "open"), (self.primary, "primary", "standby")):
            execute(url, SIDE.format(name=name, state=state))
            execute(url, *(TRIGGER.format(table=table) for table in FENCED_TABLES))

    def set_state(self, url: str, state: str) -> None:
        """Change a side's state after all running write transactions have ended."""
        with psycopg.connect(url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(1)")
            connection.execute(
                "UPDATE frontdesk_transfer.side SET state = %s, epoch = epoch + (%s <> 'closing')::int",
                (state, state),
            )

    def hand_over(self, old: str, new: str) -> None:
        """Make the side at the URL `new` the live one."""
        self.set_state(old, "closing")
        self.set_state(old, "standby")
        self.set_state(new, "open")

    def reset(self) -> None:
        """Remove the transfer from both sides and empty the fenced tables."""
        tables = ", ".join(FENCED_TABLES)
        for url in (self.legacy, self.primary):
            execute(url, f"DROP SCHEMA IF EXISTS frontdesk_transfer CASCADE; TRUNCATE {tables} CASCADE")

    def finish(self) -> None:
        for url in (self.legacy, self.primary):
            execute(url, "DROP SCHEMA frontdesk_transfer CASCADE")


def clients(url: str) -> list[int]:
    """Return the YClients ids of all clients in the database, in order."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT yclients_id FROM clients ORDER BY yclients_id").fetchall()
    return [yclients_id for (yclients_id,) in rows]


def sessions(url: str) -> int:
    """Return the number of the services' sessions in the database."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            (APPLICATION_NAME,),
        ).fetchone()
    assert row
    return int(row[0])


def client(number: int) -> dict[str, object]:
    """Return a client row for the data layer."""
    return {"yclients_id": number, "name": f"Client {number}", "phone": f"+7968{number:07}"}
