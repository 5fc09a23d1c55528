"""Tests of verification and repair: all differences are reported, and pending changes are not."""

import json
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.status import read_status
from app.transfer.relay.apply_cycle import bypass_fence
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from app.transfer.verification import verify as verifying
from app.transfer.verification.buckets import Bucket, PrimaryKey
from app.transfer.verification.repair import repair
from app.transfer.verification.verify import Divergence, verify
from tests.transfer.moving import rows

Connection = psycopg.Connection[Any]

CLIENTS = 3500


@pytest.fixture
def moving(sides: Sides, legacy: Connection) -> Sides:
    """A started transfer of a salon whose rows are copied; no relay is running."""
    legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    legacy.execute(
        "INSERT INTO clients (company_id, yclients_id, name, email, comment)"
        f" SELECT 1, n, 'Client ' || n, '', NULL FROM generate_series(1, {CLIENTS}) AS n"
    )
    legacy.execute("INSERT INTO dialog_contexts (company_id, user_id, context) VALUES (1, 'a', 'null')")
    start(sides)
    copy(sides)
    return sides


@pytest.fixture
def run(moving: Sides, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LEGACY_DATABASE_URL", moving.legacy.url)
    monkeypatch.setenv("DATABASE_URL", moving.primary.url)
    return lambda *arguments: CliRunner().invoke(main, ["transfer", *arguments])


def plant(side: Side, *statements: str) -> None:
    """Execute statements on a standby, bypassing the fence and the change log."""
    with closing(side.connect()) as connection, connection.transaction():
        bypass_fence(connection)
        connection.execute("SET LOCAL search_path = public")
        for statement in statements:
            connection.execute(statement)


def test_equal_sides_are_reported_and_recorded_as_equal(moving: Sides, run: Callable[..., Result]) -> None:
    result = run("verify", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["equal"] is True
    assert document["rows"] == CLIENTS + 2
    clients = next(table for table in document["tables"] if table["name"] == "public.clients")
    assert (clients["source_rows"], clients["standby_rows"], len(clients["root"])) == (CLIENTS, CLIENTS, 64)
    assert read_status(moving).verified_equal is True
    result = run("verify")
    assert "Equal." in result.stdout
    assert clients["root"][:16] in result.stdout


PLANTED = {
    "UPDATE clients SET name = name || ' ' WHERE id = 7": ("7", "different", ("name",)),
    "UPDATE clients SET email = NULL WHERE id = 1000": ("1000", "different", ("email",)),
    "UPDATE clients SET comment = '' WHERE id = 1001": ("1001", "different", ("comment",)),
    "UPDATE clients SET name = email, email = name WHERE id = 1002": ("1002", "different", ("name", "email")),
    "DELETE FROM clients WHERE id = 2500": ("2500", "missing", ()),
    "INSERT INTO clients (company_id, id, yclients_id, name) VALUES (1, 9000, 9000, 'x')": (
        ("9000", "extra", ())
    ),
    "UPDATE clients SET updated_at = updated_at + interval '1 microsecond' WHERE id = 3500": (
        ("3500", "different", ("updated_at",))
    ),
}


def test_differences_are_reported_with_table_and_key_and_repaired(
    moving: Sides, run: Callable[..., Result]
) -> None:
    plant(moving.primary, *PLANTED, "UPDATE dialog_contexts SET context = '\"null\"'")
    report = verify(moving)
    expected = {
        Divergence("public.clients", ("1", key), kind, columns) for key, kind, columns in PLANTED.values()
    }
    expected.add(Divergence("public.dialog_contexts", ("1", "1"), "different", ("context",)))
    assert set(report.divergences) == expected
    assert read_status(moving).verified_equal is False

    result = run("verify")
    assert result.exit_code == 1
    assert "public.clients (1, 1000): different in email" in result.stdout
    assert "public.clients (1, 9000): extra" in result.stdout

    before = rows(moving.primary)
    assert run("repair", "--dry-run").exit_code == 1
    assert rows(moving.primary) == before

    result = run("repair", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["found"]) == len(expected)
    assert rows(moving.primary) == rows(moving.legacy)
    assert read_status(moving).verified_equal is True
    assert read_status(moving).in_the_way == []


def test_a_missing_row_changes_only_its_own_bucket(moving: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    differing: list[Bucket] = []
    original = verifying.TablePair.differing_keys

    def record_bucket(pair: verifying.TablePair, bucket: Bucket) -> set[PrimaryKey]:
        differing.append(bucket)
        return original(pair, bucket)

    monkeypatch.setattr(verifying.TablePair, "differing_keys", record_bucket)
    plant(moving.primary, "DELETE FROM clients WHERE id = 10")
    assert [divergence.key for divergence in verify(moving).divergences] == [("1", "10")]
    assert len(differing) == 1


def test_every_row_of_an_emptied_table_is_reported_and_repaired(moving: Sides) -> None:
    plant(moving.primary, "DELETE FROM clients", "UPDATE companies SET phone = '1', title = 'x'")
    report = verify(moving)
    assert len(report.divergences) == CLIENTS + 1
    assert report.divergences[0] == Divergence("public.companies", ("1",), "different", ("title", "phone"))
    assert repair(moving).succeeded
    assert rows(moving.primary) == rows(moving.legacy)


def test_pending_changes_are_not_divergences(moving: Sides, legacy: Connection) -> None:
    legacy.execute("UPDATE clients SET name = 'later' WHERE id <= 20")
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 9001, 'new')")
    plant(moving.primary, "UPDATE clients SET name = 'wrong' WHERE id = 30")
    report = verify(moving, settle_timeout=0.2)
    assert [divergence.key for divergence in report.divergences] == [("1", "30")]
    assert sum(table.waiting for table in report.tables) == 21
    drain(moving)
    assert sum(table.waiting for table in verify(moving).tables) == 0


def test_verification_reports_no_differences_while_writers_and_the_relay_run(moving: Sides) -> None:
    stop, relaying = threading.Event(), threading.Event()

    def write(seed: int) -> None:
        with psycopg.connect(moving.legacy.url, autocommit=True) as connection:
            number = seed
            while not stop.is_set():
                number += 7
                connection.execute(
                    "UPDATE clients SET visit_count = visit_count + 1 WHERE id BETWEEN %s AND %s",
                    (number % CLIENTS, number % CLIENTS + 5),
                )
                connection.execute(
                    "INSERT INTO clients (company_id, yclients_id, name) VALUES (1, %s, 'n')",
                    (10000 * seed + number,),
                )
                connection.execute(
                    "DELETE FROM clients WHERE yclients_id = %s", (10000 * seed + number - 70,)
                )

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    threads.append(threading.Thread(target=relay, args=(moving, relaying)))
    for thread in threads:
        thread.start()
    try:
        reports = [verify(moving) for _ in range(3)]
    finally:
        stop.set()
        for thread in threads[:2]:
            thread.join()
        relaying.set()
        threads[2].join()
    assert [report.divergences for report in reports] == [[], [], []]
    assert all(report.is_compared for report in reports)


def test_after_the_cutover_legacy_is_compared_with_primary(moving: Sides, primary: Connection) -> None:
    change_live_side(moving, "primary")
    primary.execute("UPDATE clients SET name = 'x' WHERE id = 1")
    drain(moving)
    report = verify(moving)
    assert (report.source, report.is_equal) == ("primary", True)
    plant(moving.legacy, "DELETE FROM clients WHERE id = 5")
    assert [divergence.kind for divergence in repair(moving).found] == ["missing"]
    assert rows(moving.primary) == rows(moving.legacy)


def test_repair_reverts_writes_that_were_made_on_the_standby(
    moving: Sides, legacy: Connection, primary: Connection
) -> None:
    primary.execute("ALTER TABLE clients DISABLE TRIGGER frontdesk_transfer_fence")
    primary.execute("UPDATE clients SET name = 'mine' WHERE id = 3")
    primary.execute("ALTER TABLE clients ENABLE ALWAYS TRIGGER frontdesk_transfer_fence")
    assert "changes made there" in " ".join(read_status(moving).in_the_way)
    result = repair(moving)
    assert (len(result.found), result.standby_changes, result.succeeded) == (1, 1, True)
    assert read_status(moving).in_the_way == []
    assert rows(moving.primary) == rows(moving.legacy)


def test_keys_of_any_type_are_compared(sides: Sides, legacy: Connection, primary: Connection) -> None:
    for connection in (legacy, primary):
        connection.execute(
            'CREATE TABLE extra (name text, at timestamptz, "a%b" int, PRIMARY KEY (name, at))'
        )
    legacy.execute(
        "INSERT INTO extra SELECT chr(1040 + n % 60) || n, '2026-01-01Z'::timestamptz + n * interval '1 h', n"
        " FROM generate_series(1, 2500) AS n"
    )
    start(sides, include=["public.extra"])
    copy(sides)
    assert verify(sides).is_equal
    plant(
        sides.primary,
        'UPDATE extra SET "a%b" = 0 WHERE "a%b" = 1234',
        "DELETE FROM extra WHERE name LIKE 'А6%'",
    )
    report = verify(sides)
    assert {divergence.kind for divergence in report.divergences} == {"different", "missing"}
    assert repair(sides).succeeded
    assert rows(sides.primary) == rows(sides.legacy)


def test_tables_that_cannot_be_compared_are_reported_separately(
    run: Callable[..., Result], primary: Connection
) -> None:
    primary.execute("ALTER TABLE clients ADD COLUMN tmp int")
    result = run("verify")
    assert result.exit_code == 3
    assert "its columns or its key differ" in result.stdout
    assert "could be compared" in result.stdout
    assert run("repair").exit_code == 3
    assert run("verify", "--table", "public.companies").exit_code == 0
    assert run("verify", "--table", "public.nothing").exit_code == 2


def test_two_databases_without_a_transfer_can_be_compared(
    sides: Sides, legacy: Connection, primary: Connection
) -> None:
    for connection in (legacy, primary):
        connection.execute(
            "INSERT INTO companies (company_id, title, created_at, updated_at)"
            " VALUES (1, 'A', 'epoch', 'epoch')"
        )
    assert verify(sides).is_equal
    primary.execute("UPDATE companies SET phone = ''")
    assert verify(sides).divergences == [Divergence("public.companies", ("1",), "different", ("phone",))]
