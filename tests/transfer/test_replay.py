"""Tests of the relay's apply cycles: the standby becomes equal to the live side after any change."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.relay import apply_cycle
from app.transfer.relay.relay import drain
from app.transfer.start import start
from tests.processes import wait_until
from tests.servers import execute
from tests.transfer.moving import copy_by_change_log, rows

SALON = """
    DELETE FROM booking_slots; DELETE FROM booking_services; DELETE FROM bookings; DELETE FROM clients;
    DELETE FROM dialog_contexts; DELETE FROM archived_rows; DELETE FROM companies;
    INSERT INTO companies (company_id, title) VALUES (1, 'Salon');
    INSERT INTO clients (company_id, id, yclients_id, name)
        SELECT 1, n, n, 'x' FROM generate_series(1, 5) AS n;
    INSERT INTO bookings (company_id, id, source, starts_at, ends_at)
        SELECT 1, n, 'assistant', now(), now() + interval '1 hour' FROM generate_series(1, 3) AS n;
    INSERT INTO booking_services (company_id, booking, position, service_id)
        SELECT 1, n, 0, 1 FROM generate_series(1, 3) AS n;
    INSERT INTO booking_slots (company_id, booking, staff_id, claim, during)
        SELECT 1, n, n, '(,)', tstzrange(now(), now() + interval '1 hour') FROM generate_series(1, 2) AS n;
"""
# Each change is one transaction, whose result must be applied as a whole.
CHANGES = {
    "unique values rotated": """
        UPDATE clients SET yclients_id = -yclients_id;
        UPDATE clients SET yclients_id = -yclients_id % 5 + 1;
    """,
    "exclusive slots swapped": """
        UPDATE booking_slots SET staff_id = staff_id + 10;
        UPDATE booking_slots SET staff_id = 13 - staff_id;
    """,
    "a parent's key changed, with its children": """
        SET CONSTRAINTS ALL DEFERRED;
        UPDATE bookings SET id = 100 WHERE id = 1;
        UPDATE booking_services SET booking = 100 WHERE booking = 1;
        UPDATE booking_slots SET booking = 100 WHERE booking = 1;
    """,
    "parents and children deleted, one parent inserted again": """
        DELETE FROM booking_services; DELETE FROM booking_slots; DELETE FROM bookings;
        INSERT INTO bookings (company_id, id, source, starts_at, ends_at)
            VALUES (1, 2, 'assistant', now(), now() + interval '2 hours');
    """,
    "a unique value reused by another row": """
        DELETE FROM clients WHERE id = 1;
        INSERT INTO clients (company_id, id, yclients_id, name) VALUES (1, 77, 1, 'y');
    """,
    "SQL NULL, empty text and JSON null": """
        UPDATE clients SET surname = '', email = NULL, comment = E'\\\\N\\t\\n';
        INSERT INTO dialog_contexts (company_id, user_id, context) VALUES (1, '', 'null');
        INSERT INTO archived_rows (table_name, row, reason) VALUES ('', '"\\\\u20ac"', 'NULL');
    """,
}


STAMP = """
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
    CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON clients FOR EACH ROW EXECUTE FUNCTION stamp();
    ALTER TABLE clients ENABLE ALWAYS TRIGGER stamp;
"""


@pytest.fixture(scope="module")
def moving(new_database: Callable[[], str]) -> Sides:
    """A started transfer of an empty database."""
    sides = Sides(Side("legacy", new_database()), Side("primary", new_database()))
    start(sides)
    copy_by_change_log(sides)
    return sides


@pytest.fixture(params=[False, True], ids=["without user triggers", "with user triggers"])
def salon(moving: Sides, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """Both sides with equal rows of a salon; in one variant with user triggers on the tables."""
    execute(moving.legacy.url, SALON)
    drain(moving)
    for side in moving:
        execute(side.url, *[STAMP] * request.param)
    yield moving
    for side in moving:
        execute(side.url, "DROP FUNCTION IF EXISTS stamp CASCADE")


@pytest.mark.parametrize(
    "bulk", [apply_cycle.MIN_BULK_ENTRIES, 0], ids=["one stream", "one stream per table"]
)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_transaction_is_applied_as_a_whole(
    salon: Sides, change: str, bulk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_cycle, "MIN_BULK_ENTRIES", bulk)
    execute(salon.legacy.url, change)
    triggers = _triggers(salon)
    drain(salon)
    assert rows(salon.legacy) == rows(salon.primary)
    assert _triggers(salon) == triggers


def _triggers(sides: Sides) -> list[Any]:
    with psycopg.connect(sides.primary.url) as connection:
        query = "SELECT tgrelid::regclass::text, tgenabled FROM pg_trigger WHERE tgname = 'stamp' ORDER BY 1"
        return connection.execute(query).fetchall()


def test_an_apply_cycle_does_not_scan_a_growing_table_for_each_new_row(sides: Sides) -> None:
    execute(sides.legacy.url, "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    start(sides)
    copy_by_change_log(sides)
    for first in (1, 2_001, 4_001):
        more = f"SELECT 1, n, 'x' FROM generate_series({first}, {first + 1_999}) AS n"
        execute(sides.legacy.url, f"INSERT INTO clients (company_id, yclients_id, name) {more}")
        assert drain(sides).rows == 2_000
    wait_until(lambda: _rows_read(sides.legacy) >= 6_000)  # sessions report statistics when they end
    for side in sides:
        assert _rows_read(side) < 50_000  # a scan for each row would read 2,000 times 4,000 rows


def _rows_read(side: Side) -> int:
    with psycopg.connect(side.url) as connection:
        row = connection.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'clients'"
        ).fetchone()
    assert row is not None
    return int(row[0])
