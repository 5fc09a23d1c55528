"""Alembic's environment: which database, one deploy at a time, refusals before the first change."""

import logging.config
import sys
from collections.abc import Iterable
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection

from app.adoption import adopt
from app.config import Settings
from app.database import autovacuum_locks, embedded_server
from app.errors import FrontdeskError
from app.migrations import runner, schema_snapshot
from app.migrations.runner import MigrationRefused, SchemaState
from app.models import Base

KNOWN_OPTIONS = {"dedupe": "keep-earliest", "rewrite": "yes", "archive": "drop"}

from_command_line = "url" not in context.config.attributes
if from_command_line and context.config.config_file_name:
    logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)


def database_url() -> str:
    if not from_command_line:
        return str(context.config.attributes["url"])
    try:
        return embedded_server.resolve_migration_url(Settings.load())
    except FrontdeskError as error:
        raise CommandError(error.message) from None


def check_options() -> None:
    for key, value in context.get_x_argument(as_dictionary=True).items():
        if KNOWN_OPTIONS.get(key) != value:
            known = ", ".join(f"-x {name}={setting}" for name, setting in KNOWN_OPTIONS.items())
            raise CommandError(f"Unknown option -x {key}={value}; there are {known}.")


def check_revision(revision: str | None) -> None:
    if revision is not None and not runner.is_known_revision(context.script, revision):
        raise MigrationRefused(
            f"The database is at revision {revision}, which this code does not know: it is newer than the"
            f" code (whose head is {runner.head()}), or not Frontdesk's."
            " Deploy the code that belongs to it."
        )


def check_schema(connection: Connection) -> None:
    """Refuse where tables that are to come would not stand beside those that are there."""
    is_due = is_migration_command() and runner.schema_state(connection) is not SchemaState.AT_HEAD
    if is_due and (misplaced := schema_snapshot.search_path_problems(connection, Base.metadata.tables)):
        raise MigrationRefused("New tables would not stand where they should:", tuple(misplaced))
    connection.rollback()  # Alembic begins its transactions itself


def is_migration_command() -> bool:
    """Tell `upgrade`, `downgrade` and `stamp`, which have a destination, from `current` and `check`."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def should_include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave the tables of others alone, which may live in the same database."""
    return kind != "table" or name in Base.metadata.tables


def configure(connection: Connection) -> MigrationContext:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # Each revision commits by itself: what is finished stays finished, and its locks are gone.
        transaction_per_migration=True,
        compare_server_default=True,
        include_name=should_include_name,
    )
    return context.get_context()


def run_migrations(connection: Connection) -> None:
    """Run the steps, after every revision to come had its chance to refuse.

    An installation whose upgrade stops half-way can run neither the old code nor the new. So a
    revision that may refuse has a `preflight(connection)`, and all of them come before the first step.
    """
    migration_context = configure(connection)
    steps_to = migration_context._migrations_fn  # Alembic offers no public hook between planning and running

    def checked_steps(heads: Any, context_: Any) -> Iterable[Any]:
        steps = list(steps_to(heads, context_)) if steps_to else []
        upgrades = [
            step for step in steps if getattr(step, "is_upgrade", False) and hasattr(step, "revision")
        ]
        if upgrades and (taken := adopt.index_name_conflicts(connection)):
            raise MigrationRefused("Other tables' indexes are in the way:", tuple(taken))
        for step in upgrades:
            getattr(step.revision.module, "preflight", lambda _: None)(connection)
        connection.commit()  # concurrent builds must not wait for what the checks have read
        return steps

    migration_context._migrations_fn = checked_steps
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise CommandError("--sql cannot work here: the chain looks at the rows that it carries over.")
    check_options()
    with runner.migration_engine(database_url()) as engine:

        def attempt() -> None:
            with engine.connect() as connection:
                check_schema(connection)
                run_migrations(connection)

        def revision() -> str | None:
            with engine.connect() as connection:
                return runner.current_revision(connection)

        def before_retry() -> None:
            with engine.connect() as connection:
                autovacuum_locks.cancel_autovacuum(connection.connection.driver_connection)

        check_revision(revision())
        if not is_migration_command():
            attempt()
            return
        with runner.migration_lock(engine):
            check_revision(revision())
            runner.retry_on_lock_timeout(attempt, revision, before_retry)


try:
    main()
except MigrationRefused as refusal:
    if not from_command_line:
        raise
    # Alembic would wrap the report to the terminal's width, and log it a second time.
    sys.stderr.write("".join(f"{line}\n" for line in refusal.report))
    raise CommandError(refusal.summary) from None
