"""A backup of a million rows: the drill measures the recovery time, and memory use does not grow."""

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
MAX_MEMORY_BYTES = 16 << 20  # less than the dump has


@pytest.mark.full
def test_create_verify_and_drill_of_a_million_rows_use_little_memory(backup: Backup, source: str) -> None:
    execute(source, BOOKINGS)
    tracemalloc.start()
    try:
        made = parse_json_output(backup("create", "--json"))
        verified = parse_json_output(backup("verify", "--json"))
        drilled = parse_json_output(backup("drill", "--json"))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made["rows"] > 1_000_000
    assert (verified["good"], drilled["good"]) == (True, True)
    assert peak_bytes < MAX_MEMORY_BYTES < made["bytes"]
    assert drilled["recovery_seconds"] > 0
