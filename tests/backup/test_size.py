"""A million rows: the drill tells how long they take to come back, and nothing grows with their number."""

import tracemalloc

import pytest

from tests.backup.conftest import Backup, parse_json_output
from tests.servers import execute

BOOKINGS = """
INSERT INTO bookings (company_id, yclients_record_id, client_id, client_phone, client_name, staff_id,
    starts_at, ends_at, price)
SELECT 1, n, n % 90000, '+7968' || n % 90000, 'Анна ' || n % 90000, n % 40,
    timestamptz '2026-01-01 00:00+00' + n * interval '1 minute',
    timestamptz '2026-01-01 01:00+00' + n * interval '1 minute', n % 5000
FROM generate_series(1, 1000000) AS n
"""
PIECES = 16 << 20  # bytes of memory; the dump is larger


@pytest.mark.full
def test_a_drill_of_a_million_rows(backup: Backup, source: str) -> None:
    execute(source, BOOKINGS)
    tracemalloc.start()
    try:
        made = parse_json_output(backup("create", "--json"))
        verified = parse_json_output(backup("verify", "--json"))
        drilled = parse_json_output(backup("drill", "--json"))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made["rows"] > 1_000_000
    assert (verified["good"], drilled["good"]) == (True, True)
    assert most < PIECES < made["bytes"]
    assert drilled["recovery_seconds"] > 0
