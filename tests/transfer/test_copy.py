"""Tests of the copy: it loses and overwrites no row, with concurrent writers and after interruptions."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from app.cli import main
from app.database.advisory_locks import AdvisoryLock
from app.database.checksum import table_hash_sql
from app.errors import ConflictError, InvalidInputError
from app.models import Base
from app.transfer.copying import copy as copying
from app.transfer.copying import progress
from app.transfer.copying.chunk import Chunk
from app.transfer.copying.copy import copy
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.status import Stage, read_status
from app.transfer.protocol.tables import transfer_tables
from app.transfer.relay.relay import drain
from app.transfer.start import start
from tests.processes import WAIT_TIMEOUT_SECONDS
from tests.transfer.moving import rows

Connection = psycopg.Connection[Any]

TABLES = len(Base.metadata.tables)
SALON = (
    "INSERT INTO companies (company_id, title) VALUES (1, 'Salon'), (2, 'Ира')",
    "INSERT INTO clients (company_id, yclients_id, name, email, comment)"
    " SELECT 1 + n % 2, n, 'Client ' || n, CASE n % 3 WHEN 1 THEN '' WHEN 2 THEN E'a\\tb\\\\\n' END,"
    " repeat('long ', n % 700) FROM generate_series(1, 600) AS n",
    "INSERT INTO bookings (company_id, yclients_record_id, starts_at, ends_at)"
    " SELECT 1, n, now(), now() + interval '1 hour' FROM generate_series(1, 200) AS n",
    "INSERT INTO booking_services (company_id, booking, position, service_id)"
    " SELECT company_id, id, 0, 7 FROM bookings",
    "INSERT INTO booking_slots (company_id, booking, staff_id, claim, during) SELECT company_id, id, id,"
    " int8range(NULL, NULL), tstzrange(starts_at, ends_at) FROM bookings",
    "INSERT INTO dialog_contexts (company_id, user_id, context) VALUES (1, 'a', 'null'), (1, 'b', '{}')",
)
# Changes of rows between an interrupted run and the next one.
CHANGES = (
    "UPDATE clients SET name = name || '!' WHERE id % 3 = 0",  # moves them to other blocks
    "DELETE FROM clients WHERE id % 7 = 0",
    "UPDATE clients SET yclients_id = 10000 + yclients_id",
    "UPDATE clients SET yclients_id = 20601 - yclients_id",  # swaps unique values between rows
    "INSERT INTO clients (company_id, yclients_id, name) SELECT 2, n, 'new' FROM generate_series(1, 50) AS n",
    "INSERT INTO bookings (company_id, yclients_record_id, starts_at, ends_at)"
    " SELECT 1, n, now(), now() + interval '1 hour' FROM generate_series(1000, 1050) AS n",
    "UPDATE bookings SET id = id + 5000 WHERE id > 240",
    "INSERT INTO booking_services (company_id, booking, position, service_id)"
    " SELECT company_id, id, 1, 8 FROM bookings",
)


@pytest.fixture
def salon(sides: Sides, legacy: Connection) -> Sides:
    """Two sides; legacy holds the rows of SALON."""
    for statement in SALON:
        legacy.execute(statement)
    return sides


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each chunk one block."""
    monkeypatch.setattr(progress, "CHUNK_BLOCKS", 1)


class KilledError(Exception):
    """Simulates the end of the process."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise KilledError instead of copying the chunk with this number, counted over all tables."""
    count = iter(range(1, 1000))
    original = copying.copy_chunk

    def copy_or_raise(*arguments: Any) -> tuple[int, int]:
        if next(count) >= number:
            raise KilledError
        return original(*arguments)

    monkeypatch.setattr(copying, "copy_chunk", copy_or_raise)


def test_the_copy_contains_every_row_and_a_second_run_copies_nothing(salon: Sides) -> None:
    start(salon)
    assert read_status(salon).stage is Stage.COPYING
    report = copy(salon)
    assert rows(salon.primary) == rows(salon.legacy)
    assert report.rows == sum(len(table_rows) for table_rows in rows(salon.legacy).values())
    status = read_status(salon)
    assert (status.stage, status.copied, status.marks, status.in_the_way) == (Stage.RELAYING, TABLES, 0, [])
    again = copy(salon)
    assert (again.rows, again.is_complete) == (0, True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=pytest.mark.full) for number in (1, 2, 5, 9, 20)] + [4, 15]
)
def test_a_killed_copy_continues_although_rows_have_changed(
    salon: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    start(salon)
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        with pytest.raises(KilledError):
            copy(salon)
    for statement in CHANGES:
        legacy.execute(statement)
    report = copy(salon)
    assert report.is_complete
    if number == 15:
        assert sum(table.left for table in report.tables) > 0
    drain(salon)
    assert rows(salon.primary) == rows(salon.legacy)


@pytest.mark.usefixtures("small_chunks")
def test_one_large_table_is_shared_by_all_connections(salon: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    start(salon)
    original, meeting = copying.copy_chunk, threading.Barrier(2)

    def copy_together(source: Any, target: Any, legacy: Side, chunk: Chunk) -> tuple[int, int]:
        if chunk.table.name == "public.clients" and chunk.first_block < 2:
            meeting.wait(WAIT_TIMEOUT_SECONDS)
        return original(source, target, legacy, chunk)

    monkeypatch.setattr(copying, "copy_chunk", copy_together)
    assert copy(salon, jobs=2).is_complete
    assert rows(salon.primary) == rows(salon.legacy)


@pytest.mark.usefixtures("small_chunks")
def test_a_table_that_is_rewritten_between_two_runs_is_copied_again(
    salon: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(salon)
    with monkeypatch.context() as patch:
        kill_at(patch, 12)
        with pytest.raises(KilledError):
            copy(salon)
    legacy.execute("DELETE FROM clients WHERE id <= 100")
    legacy.execute("VACUUM FULL clients")  # block numbers refer to other rows now
    copy(salon)
    drain(salon)
    assert rows(salon.primary) == rows(salon.legacy)


def test_a_copy_with_concurrent_writers_loses_no_change(
    salon: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "CHUNK_BLOCKS", 2)
    start(salon)
    stop = threading.Event()

    def write(seed: int) -> None:
        with psycopg.connect(salon.legacy.url, autocommit=True) as connection:
            number = seed
            while not stop.is_set():
                number += 10
                connection.execute(
                    "WITH booked AS ("
                    "INSERT INTO bookings (company_id, yclients_record_id, starts_at, ends_at)"
                    " VALUES (2, %s, now(), now() + interval '1 hour') RETURNING company_id, id)"
                    " INSERT INTO booking_services (company_id, booking, position, service_id)"
                    " SELECT company_id, id, 0, 1 FROM booked",
                    (number,),
                )
                connection.execute("UPDATE clients SET visit_count = 1 WHERE id %% 5 = %s", (seed,))
                connection.execute("DELETE FROM clients WHERE id = %s", (number % 600,))
                stop.wait(0.005)  # so that other tests get CPU time

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.2)
        copy(salon)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    drain(salon)
    assert rows(salon.primary) == rows(salon.legacy)


def test_a_table_with_unusual_names_types_and_triggers_is_copied_unchanged(
    sides: Sides, legacy: Connection, primary: Connection
) -> None:
    for connection in (legacy, primary):
        connection.execute("CREATE TYPE color AS ENUM ('red', 'blue')")
        connection.execute(
            'CREATE TABLE "Odd Names" (key text, "no" int GENERATED ALWAYS AS IDENTITY, parent text,'
            " twice int GENERATED ALWAYS AS (n * 2) STORED, n int, colors color[], data json, gone int,"
            ' PRIMARY KEY (key, "no"), UNIQUE (key),'
            ' FOREIGN KEY (parent) REFERENCES "Odd Names" (key) DEFERRABLE)'
        )
        connection.execute('ALTER TABLE "Odd Names" DROP COLUMN gone')
        connection.execute(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN NEW.n := COALESCE(NEW.n, 0) + 1; RETURN NEW; END'"
        )
    legacy.execute(
        'INSERT INTO "Odd Names" (key, parent, n, colors, data) VALUES'
        " ('б', 'a', 1, '{red,blue,NULL}', 'null'), ('a', NULL, NULL, '{}', NULL),"
        " ('', 'б', 0, NULL, '[1 ]')"
    )
    for connection in (legacy, primary):
        connection.execute(
            'CREATE TRIGGER spoil BEFORE INSERT ON "Odd Names" FOR EACH ROW EXECUTE FUNCTION spoil()'
        )
    start(sides, include=["public.Odd Names"], leave_out=["public.spoil()", "public.color"])
    assert copy(sides).is_complete
    drain(sides)
    assert rows(sides.primary) == rows(sides.legacy)
    assert len(rows(sides.primary)["public.Odd Names"]) == 3
    row = primary.execute("SELECT data IS NULL FROM \"Odd Names\" WHERE key = 'б'").fetchone()
    assert row == (False,)


def test_a_dry_run_writes_nothing_after_a_partial_copy(salon: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    start(salon)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "CHUNK_BLOCKS", 1)
        kill_at(patch, 8)
        with pytest.raises(KilledError):
            copy(salon)

    def everything() -> Any:
        with closing(salon.primary.connect()) as connection:
            progress = connection.execute(
                "SELECT * FROM frontdesk_transfer.stretches ORDER BY 1, 2"
            ).fetchall()
        return progress, rows(salon.primary)

    before = everything()
    report = copy(salon, dry_run=True)
    assert not report.is_complete
    assert everything() == before


def test_a_second_concurrent_copy_is_rejected(salon: Sides) -> None:
    start(salon)
    with closing(salon.primary.connect()) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.TRANSFER_COPY,))
        with pytest.raises(ConflictError, match="Another copy is running"):
            copy(salon)


def test_the_copy_requires_change_capture(sides: Sides, legacy: Connection) -> None:
    with pytest.raises(InvalidInputError, match="transfer start"):
        copy(sides)
    start(sides)
    legacy.execute("ALTER TABLE clients DISABLE TRIGGER frontdesk_transfer_insert")
    with pytest.raises(ConflictError, match=r"public\.clients are not captured on legacy"):
        copy(sides)


def test_the_command_reports_the_copied_tables_and_rows(
    salon: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEGACY_DATABASE_URL", salon.legacy.url)
    monkeypatch.setenv("DATABASE_URL", salon.primary.url)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(main, ["transfer", *arguments])
        assert result.exit_code == 0, result.output
        return result

    run("start")
    assert f"{TABLES} of {TABLES} tables remain to be copied" in run("copy", "--dry-run").stdout
    document = json.loads(run("copy", "--json", "--jobs", "3").stdout)
    assert (document["complete"], document["rows"]) == (True, 1204)
    assert f"All {TABLES} tables are copied" in run("copy").stdout


def test_a_copy_whose_process_is_killed_can_be_continued(salon: Sides, legacy: Connection) -> None:
    legacy.execute(
        "INSERT INTO clients (company_id, yclients_id, name)"
        " SELECT 1, n, 'Client ' || n FROM generate_series(1000, 15000) AS n"
    )
    start(salon)
    environment = {"LEGACY_DATABASE_URL": salon.legacy.url, "DATABASE_URL": salon.primary.url}
    command = [sys.executable, "-c", "from app.cli import main; main()", "transfer", "copy"]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)
    query = "SELECT coalesce(max(end_block), 0) FROM frontdesk_transfer.stretches"
    with closing(salon.primary.connect()) as primary:
        while process.poll() is None:
            if (row := primary.execute(query).fetchone()) and row[0] > 1:
                process.kill()
    process.communicate()
    assert process.returncode == -9
    assert not copy(salon, dry_run=True).is_complete
    assert copy(salon).is_complete
    assert contents(salon.primary) == contents(salon.legacy)


def contents(side: Side) -> dict[str, Any]:
    """Return the row count and the checksum of each table, to compare tables with many rows."""
    with closing(side.connect()) as connection:
        return {
            table.name: connection.execute(
                table_hash_sql(table.schema, table.bare_name, table.columns)
            ).fetchone()
            for table in transfer_tables(connection)
        }
