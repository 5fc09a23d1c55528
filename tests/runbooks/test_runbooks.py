"""The commands of each runbook, run in the situation that it describes, print the output that it shows."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from werkzeug.serving import make_server

from app import Frontdesk, Settings, create_app
from app.backup import pg_programs
from app.cli import main
from app.errors import FrontdeskError
from app.migrations import runner
from tests.migrations.databases import Database
from tests.processes import wait_until
from tests.runbooks.following import FOLDER, Terminal, run_page, steps
from tests.servers import Server, execute, url_of

Configure = Callable[[str], Terminal]

SALON = 962302
CLIENTS = (
    f"INSERT INTO companies (company_id, title) VALUES ({SALON}, 'Salon')",
    "INSERT INTO clients (company_id, yclients_id, name)"
    f" SELECT {SALON}, n, 'A' FROM generate_series(1, 99) AS n",
)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Return a function that creates a terminal with the given DATABASE_URL."""

    def make(url: str) -> Terminal:
        programs_of_postgresql = pg_programs.find_program("pg_restore", 16).path.parent
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("BACKUP_ADDRESS", str(tmp_path / "backups"))
        monkeypatch.setenv("PATH", str(programs_of_postgresql), prepend=":")
        monkeypatch.setenv("COLUMNS", "200")
        return Terminal()

    return make


@contextmanager
def served(terminal: Terminal, url: str, connections: int = 3) -> Iterator[Frontdesk]:
    """Serve the web application on the database, at the URL that the terminal's commands use."""
    settings = Settings(database_url=SecretStr(url), postgres_max_connections=connections)
    with Frontdesk(settings) as desk:
        server = make_server("127.0.0.1", 0, create_app(desk), threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        terminal.service = f"http://127.0.0.1:{server.port}"
        try:
            yield desk
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def waiting_for_locks(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def run(*arguments: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def test_every_runbook_has_a_test_and_is_listed() -> None:
    pages = {page.name for page in FOLDER.glob("*.md")} - {"README.md"}
    assert pages
    tests = {name for name in globals() if name.startswith("test_")}
    assert {f"test_{page.removesuffix('.md').replace('-', '_')}" for page in pages} <= tests
    listed = (FOLDER / "README.md").read_text()
    assert all(f"]({page})" in listed for page in pages)
    assert all(list(steps(page)) for page in pages)


def test_deploy(configure: Configure, database_url: str) -> None:
    terminal = configure(database_url)
    execute(database_url, *CLIENTS)
    run("backup", "create")
    run("backup", "drill")
    with served(terminal, database_url):
        run_page("deploy.md", terminal)


def test_the_commands_of_the_page_on_backups_print_its_output(
    configure: Configure, database_url: str
) -> None:
    run_page("../backups.md", configure(database_url))


def test_roll_back_a_deploy(configure: Configure, database_url: str) -> None:
    terminal = configure(database_url)
    with served(terminal, database_url):
        run_page("roll-back-a-deploy.md", terminal)


def test_roll_back_a_migration(configure: Configure, database_url: str) -> None:
    execute(database_url, *CLIENTS)
    run_page("roll-back-a-migration.md", configure(database_url))


def test_restore(
    configure: Configure, database_url: str, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = configure(database_url)
    execute(database_url, *CLIENTS)
    run("backup", "create")
    run("backup", "verify")
    run("backup", "create")
    restored = url_of(database_url, "frontdesk_restored")
    monkeypatch.setenv("RESTORED_URL", restored)
    with ExitStack() as stack:
        stack.callback(execute, server_url, "DROP DATABASE IF EXISTS frontdesk_restored WITH (FORCE)")
        terminal.units = {"start frontdesk-web": lambda: stack.enter_context(served(terminal, restored))}
        run_page("restore.md", terminal)


def test_no_good_backup(configure: Configure, database_url: str, tmp_path: Path) -> None:
    terminal = configure(database_url)
    execute(database_url, *CLIENTS)
    run("backup", "create")
    (dump,) = (tmp_path / "backups").glob("*.dump")
    os.truncate(dump, 10_000)
    run_page("no-good-backup.md", terminal)


def test_pool_exhausted(configure: Configure, database_url: str) -> None:
    """One unit of work holds a row lock and idles, two wait for the lock, one for a connection."""
    terminal = configure(database_url)
    execute(database_url, *CLIENTS)
    with served(terminal, database_url) as desk:
        salon = desk.company(SALON)
        finished: list[str] = []
        waiting = [
            threading.Thread(target=salon.upsert_client, args=({"yclients_id": 1, "name": "B"},))
            for _ in range(3)
        ]

        def hold() -> None:
            """Change a row, then follow the runbook, which ends this session."""
            with desk.unit_of_work(SALON) as uow:
                uow.session.connection().exec_driver_sql("UPDATE clients SET comment = 'x' WHERE id = 1")
                for thread in waiting:
                    thread.start()
                wait_until(lambda: desk.database.live().pool.waiting > 0)
                wait_until(lambda: waiting_for_locks(database_url) == 2)
                run_page("pool-exhausted.md", terminal)
                finished.append("pool-exhausted.md")

        with pytest.raises(FrontdeskError):
            hold()
        assert finished
        for thread in waiting:
            thread.join()


def test_database_down(configure: Configure) -> None:
    server = Server()
    try:
        runner.upgrade(server.url)
        terminal = configure(server.url)
        terminal.units = {"start postgresql": server.start}
        with served(terminal, server.url):
            server.kill()
            run_page("database-down.md", terminal)
    finally:
        server.delete()


def test_whatsapp_critical(configure: Configure, database_url: str) -> None:
    terminal = configure(database_url)
    execute(
        database_url,
        CLIENTS[0],
        f"INSERT INTO whatsapp_auth (company_id, creds) VALUES ({SALON}, '{{}}')",
        "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value, expires_at) SELECT"
        f" {SALON}, 'device-list', n, '1', now() - interval '8 days' FROM generate_series(1, 260) AS n",
        "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
        f" VALUES ({SALON}, 'session', '1', '1')",
    )
    run_page("whatsapp-critical.md", terminal)


def test_duplicate_rows(configure: Configure, server_url: str) -> None:
    execute(server_url, "CREATE DATABASE duplicates")
    try:
        old = Database(url_of(server_url, "duplicates"))
        old.upgrade("baseline")
        old.insert("companies", {})
        old.insert("staff", {"name": "Olga"}, {"name": "Olga", "specialization": "Hair"})
        run_page("duplicate-rows.md", configure(old.url))
    finally:
        execute(server_url, "DROP DATABASE duplicates WITH (FORCE)")
