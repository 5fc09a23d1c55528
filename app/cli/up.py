"""`frontdesk up`: start a complete Frontdesk for development in one process tree."""

import logging
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from pydantic import SecretStr

from app.cli import console
from app.config import Settings
from app.database import embedded_server
from app.frontdesk import Frontdesk
from app.migrations import runner
from app.observability import logs
from app.web import create_app
from app.web.serving.local_server import HOST, bind_port, serve
from app.yclients import sample
from app.yclients.importing.import_files import import_files


@click.command("up")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@console.compare_reads_option
def up_command(port: int, compare_reads: float | None) -> None:
    """Start everything: database, migrations, a sample salon, and the health API.

    Without DATABASE_URL, start an embedded PostgreSQL that keeps its data under .frontdesk/.
    Ctrl-C stops everything.
    """
    exit_if_requested = _exit_on_sigterm()
    settings = console.load_settings(compare_reads)
    with bind_port(port) as listener:
        settings = _start_database(settings)
        exit_if_requested()
        _migrate(settings)
        exit_if_requested()
        _load_sample(settings)
        logs.configure(settings)
        exit_if_requested()
        serve(
            lambda: create_app(Frontdesk(settings)),
            listener,
            when_ready=lambda: _print_addresses(f"http://{HOST}:{port}"),
        )


def _exit_on_sigterm() -> Callable[[], None]:
    """Exit with SystemExit on SIGTERM. This stops the embedded server. gunicorn later sets its own handler.

    Returns a function to call between steps, which exits if SIGTERM has arrived. It is needed because Python
    ignores the handler's SystemExit inside a destructor or the callback of a weak reference.
    """
    requested = False

    def exit_if_requested() -> None:
        if requested:
            sys.exit(128 + signal.SIGTERM)

    def on_sigterm(*_: object) -> None:
        nonlocal requested
        requested = True
        exit_if_requested()

    signal.signal(signal.SIGTERM, on_sigterm)
    return exit_if_requested


def _print_step(step: str, text: str) -> None:
    click.echo(f"{step:<10}{text}")


def _start_database(settings: Settings) -> Settings:
    """Start the embedded database if necessary; return settings with the URL of a responding database."""
    embedded = settings.database_url is None
    settings = settings.model_copy(
        update={"database_url": SecretStr(embedded_server.resolve_database_url(settings))}
    )
    with Frontdesk(settings) as desk:
        desk.database.ping()
    _print_step(
        "database",
        "embedded PostgreSQL, data under .frontdesk/" if embedded else "from DATABASE_URL",
    )
    return settings


def _migrate(settings: Settings) -> None:
    progress = logging.getLogger("alembic.frontdesk")  # logs the locks that a migration waits for
    progress.addHandler(logging.StreamHandler())
    progress.setLevel(logging.INFO)
    upgrade = runner.upgrade(embedded_server.resolve_migration_url(settings))
    if upgrade.changed:
        _print_step("schema", f"migrated from {upgrade.before or 'nothing'} to {upgrade.after}")
    else:
        _print_step("schema", f"at head ({upgrade.after})")


def _load_sample(settings: Settings) -> None:
    """Import the sample salon into a database without companies, except in production.

    The import writes bookings last, so a sample salon without bookings is incomplete and is imported again.
    """
    if settings.is_production:
        return
    with Frontdesk(settings) as desk:
        known = desk.database.read(
            lambda connection: connection.execute(
                "SELECT company_id, EXISTS (SELECT FROM bookings WHERE bookings.company_id = c.company_id)"
                " FROM companies AS c LIMIT 2"
            ).fetchall()
        )
        if known and known != [(sample.COMPANY_ID, False)]:
            return
        with TemporaryDirectory() as folder:
            files = sample.write_sample(Path(folder), datetime.now(sample.ZONE).date())
            summary = import_files(desk, sample.COMPANY_ID, files)
    rows = ", ".join(
        f"{kind.as_dict()['rows']} {name.replace('_', ' ')}" for name, kind in summary.kinds.items()
    )
    _print_step("sample", f"salon {sample.COMPANY_ID}: {rows}")


def _print_addresses(address: str) -> None:
    click.echo(
        f"""
Frontdesk is up.

  {address}/status            status page
  {address}/health            health of the process
  {address}/health/ready      health of the database and its schema
  {address}/health/database   health of the connection pool

In another terminal:

  curl -s {address}/health/ready
  {sys.argv[0]} demo race

Ctrl-C stops everything."""
    )
