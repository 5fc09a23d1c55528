"""Creation, listing, verification, restore and drill of a backup, and the log of these runs."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from app.backup import run_log
from tests.backup.conftest import Backup, create_backup, parse_json_output
from tests.moves import FakeTransfer
from tests.processes import wait_until
from tests.servers import execute, url_of


@pytest.fixture
def empty(server_url: str) -> Iterator[str]:
    """Create an empty database and yield its libpq URL."""
    name = f"restored_{os.getpid()}"
    execute(server_url, f"CREATE DATABASE {name}")
    yield url_of(server_url, name)
    execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def value(url: str, query: str) -> object:
    """Return the first column of the query's first row."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
        return row and row[0]


def scratches(server_url: str) -> set[str]:
    """Return the names of the scratch databases on the server."""
    with psycopg.connect(server_url) as connection:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, 'frontdesk_drill_')"
        return {name for (name,) in connection.execute(query)}


def test_the_manifest_of_a_backup_describes_its_contents(backup: Backup, shared: str, address: Path) -> None:
    made = parse_json_output(backup("create", "--json"))
    manifest = json.loads((address / f"{made['name']}.json").read_text())
    tables = {table["name"]: table["rows"] for table in manifest["tables"]}
    assert tables["public.clients"] == 2000
    assert tables["public.companies"] == 2
    assert manifest["revision"] == value(shared, "SELECT version_num FROM alembic_version")
    assert manifest["sequences"]["public.clients_id_seq"] == 2000
    assert value(shared, "SELECT current_user::text") in manifest["roles"]
    assert manifest["dump_sha256"] == made["sha256"]
    assert made["recorded"] is True
    assert (address / f"{made['name']}.dump").stat().st_mode & 0o077 == 0, "only the owner may read it"


def test_verify_and_drill_find_a_backup_good(backup: Backup, made: str, server_url: str) -> None:
    assert parse_json_output(backup("verify", "--json"))["good"] is True
    drilled = parse_json_output(backup("drill", "--json"))
    assert (drilled["name"], drilled["good"], drilled["problems"]) == (made, True, [])
    assert drilled["recovery_seconds"] > 0
    wait_until(lambda: not scratches(server_url))  # a parallel test may have one for a short time
    (listed,) = parse_json_output(backup("list", "--json"))["backups"]
    assert listed["last_check"]["kind"] == "drill"


def test_restore_restores_every_row(backup: Backup, made: str, shared: str, empty: str) -> None:
    assert parse_json_output(backup("restore", "--into", empty, "--dry-run", "--json"))["dry_run"] is True
    assert value(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    restored = parse_json_output(backup("restore", "--into", empty, "--json"))
    assert (restored["name"], restored["good"], restored["missing_roles"]) == (made, True, [])
    rows = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM clients AS c"
    assert value(empty, rows) == value(shared, rows)
    execute(empty, "INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 9999, 'Ira')")
    assert value(empty, "SELECT kind FROM backup_runs ORDER BY id DESC") == "restore"


def test_restore_refuses_a_database_that_is_not_empty(
    backup: Backup, made: str, shared: str, empty: str
) -> None:
    refused = backup("restore")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "is not empty (public.alembic_version" in refused.stderr
    for definition in (
        "SEQUENCE s",
        "VIEW v AS SELECT 1",
        "FUNCTION f() RETURNS int RETURN 1",
        "SCHEMA other",
        "TYPE colour AS ENUM ('red')",
        "TYPE pair AS (a int)",
        "DOMAIN small AS int",
    ):
        execute(empty, f"CREATE {definition}")
        refused = backup("restore", "--into", empty)
        assert refused.exit_code == 3
        assert "is not empty" in refused.stderr
        execute(empty, f"DROP {definition.split(' AS')[0].split(' RETURNS')[0]}")
    execute(empty, "SELECT lo_create(1)")
    assert "is not empty (large object 1)" in backup("restore", "--into", empty).stderr


def test_restore_keeps_grants_when_their_roles_exist(
    backup: Backup, source: str, server_url: str, empty: str
) -> None:
    execute(server_url, "CREATE ROLE reader")
    execute(source, "GRANT SELECT ON clients TO reader")
    granted = "SELECT has_table_privilege('reader', 'clients', 'SELECT')"
    try:
        create_backup(backup)
        parse_json_output(backup("restore", "--into", empty, "--json"))
        assert value(empty, granted) is True
        execute(empty, "DROP OWNED BY reader")
    finally:
        execute(source, "DROP OWNED BY reader")
        execute(server_url, "DROP ROLE reader")


def test_restore_without_the_owner_role_restores_the_rows_and_reports_the_role(
    backup: Backup, source: str, server_url: str, empty: str
) -> None:
    execute(server_url, "CREATE ROLE gone")
    execute(source, "ALTER TABLE staff OWNER TO gone")
    create_backup(backup)
    execute(source, "REASSIGN OWNED BY gone TO CURRENT_USER")
    execute(server_url, "DROP ROLE gone")
    assert parse_json_output(backup("restore", "--into", empty, "--json"))["missing_roles"] == ["gone"]


def test_manifest_and_dump_agree_while_rows_are_inserted(backup: Backup, source: str, address: Path) -> None:
    """Both come from one snapshot; without it, they would differ for a table that grows during the backup."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(source, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute(
                    "INSERT INTO clients (company_id, name, source) VALUES (1, 'A', 'assistant')"
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = create_backup(backup)
    finally:
        stop.set()
        writer.join()
    manifest = json.loads((address / f"{made}.json").read_text())
    (rows,) = [table["rows"] for table in manifest["tables"] if table["name"] == "public.clients"]
    assert value(source, f"SELECT count(*) > {rows} FROM clients"), "rows were added after the snapshot"
    assert parse_json_output(backup("verify", "--json"))["good"] is True
    assert parse_json_output(backup("drill", "--json"))["good"] is True


def test_a_drill_by_a_role_that_may_not_create_databases_uses_an_embedded_server(
    backup: Backup, made: str, shared: str, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(server_url, "CREATE ROLE plain LOGIN")
    execute(shared, "GRANT pg_read_all_data, pg_write_all_data TO plain")
    try:
        monkeypatch.setenv(
            "DATABASE_URL", f"{shared}&user=plain" if "?" in shared else f"{shared}?user=plain"
        )
        drilled = parse_json_output(backup("drill", "--json"))
    finally:
        execute(shared, "DROP OWNED BY plain")
        execute(server_url, "DROP ROLE plain")
    location = "a scratch database on an embedded server"
    assert (drilled["good"], drilled["where"], drilled["recorded"]) == (True, location, True)


@pytest.mark.parametrize("process_id", ["", "_2147483647"])  # the first release's names had none
def test_the_next_drill_drops_the_scratch_database_of_a_killed_drill(
    backup: Backup, made: str, server_url: str, process_id: str
) -> None:
    left = "frontdesk_drill_0123456789ab" + process_id
    execute(server_url, f"CREATE DATABASE {left}")
    parse_json_output(backup("drill", "--json"))
    assert left not in scratches(server_url)


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_drill_does_not_drop_the_scratch_database_of_a_running_drill(
    backup: Backup, made: str, server_url: str, is_connected: bool
) -> None:
    with psycopg.connect(server_url, autocommit=True) as creator:
        other = "frontdesk_drill_ba9876543210"
        other += "" if is_connected else f"_{creator.info.backend_pid}"
        creator.execute(f"CREATE DATABASE {other}")
        try:
            with psycopg.connect(url_of(server_url, other)) if is_connected else nullcontext():
                parse_json_output(backup("drill", "--json"))
                assert other in scratches(server_url)
        finally:
            creator.execute(f"DROP DATABASE IF EXISTS {other} WITH (FORCE)")


def test_a_backup_includes_tables_of_other_schemas_and_kinds_and_with_odd_names(
    backup: Backup, source: str
) -> None:
    execute(
        source,
        'CREATE SCHEMA "Other one"',
        'CREATE TABLE "Other one"."a ""b%" ("x y" text, z float8, t timestamptz DEFAULT now())',
        """INSERT INTO "Other one"."a ""b%" VALUES ('', 0.1), (NULL, 'NaN'), ('\\.', 1e300)""",
        "CREATE TABLE parts (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO parts SELECT generate_series(0, 9)",
        "CREATE TABLE nothing ()",
        "INSERT INTO nothing DEFAULT VALUES",
        "CREATE UNLOGGED TABLE fast AS SELECT 1 AS one",
    )
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"))["problems"] == []
    assert parse_json_output(backup("drill", "--json"))["problems"] == []


def test_the_log_contains_the_age_of_the_newest_backup_without_a_failed_check(
    backup: Backup, source: str, address: Path
) -> None:
    def last() -> run_log.BackupSummary:
        with psycopg.connect(source, autocommit=True) as connection:
            return run_log.query_summary(connection)

    assert last() == (None, None, None)
    create_backup(backup)
    first = last().taken_at
    assert first is not None
    assert last().drilled_at is None
    parse_json_output(backup("drill", "--json"))
    assert last().drilled_at is not None
    newer = create_backup(backup)
    assert last().taken_at > first
    (address / f"{newer}.dump").write_bytes(b"")
    assert parse_json_output(backup("verify", "--json"), 1)["good"] is False
    assert last().taken_at == first


def test_verify_and_list_work_while_the_database_is_unreachable(
    backup: Backup, made: str, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    verified, listed = backup("verify", "--json"), backup("list", "--json")
    assert (parse_json_output(verified)["good"], parse_json_output(verified)["recorded"]) == (True, False)
    assert parse_json_output(listed)["backups"][0]["name"] == made
    assert "Warning: this run could not be logged" in verified.stderr
    assert "Warning: the log of earlier checks is unavailable" in listed.stderr


def test_create_backs_up_the_live_side_during_a_transfer(
    backup: Backup,
    source: str,
    new_database: Callable[[], str],
    address: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEGACY_DATABASE_URL", source)
    monkeypatch.setenv("DATABASE_URL", new_database())
    FakeTransfer(legacy=source, primary=os.environ["DATABASE_URL"]).start()
    made = parse_json_output(backup("create", "--json"))
    manifest = json.loads((address / f"{made['name']}.json").read_text())
    assert manifest["database"] == value(source, "SELECT current_database()")
    assert made["recorded"] is True
    assert value(source, "SELECT backup FROM backup_runs") == made["name"]
    assert parse_json_output(backup("drill", "--json"))["good"] is True


def test_create_by_a_role_without_read_access_names_the_missing_privilege(
    backup: Backup, shared: str, server_url: str, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(server_url, "CREATE ROLE blind LOGIN")
    try:
        monkeypatch.setenv("DATABASE_URL", f"{shared}{'&' if '?' in shared else '?'}user=blind")
        refused = backup("create")
    finally:
        execute(server_url, "DROP ROLE blind")
    assert refused.exit_code == 3
    assert "The role blind may not read every table: permission denied for" in refused.stderr
    assert list(address.glob("*")) == []


def test_errors_are_reported_in_one_line_on_stderr(backup: Backup, shared: str, address: Path) -> None:
    for arguments, code, words in [
        (("list",), 3, "does not exist"),
        (
            ("verify", "frontdesk-20260101T000000Z-0000", "--at", str(address.parent)),
            3,
            "is no backup frontdesk-2026",
        ),
        (("restore", "--at", str(address.parent)), 3, "There is no complete backup at"),
        (("list", "--at", "zzz://x"), 2, "Protocol not known"),
        (("prune",), 2, "--keep"),
    ]:
        result = backup(*arguments)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
