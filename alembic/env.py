"""Alembic environment: one deploy at a time, and all checks before the first change."""

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
from app.database.alembic_revision import read_revision
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
            raise CommandError(f"Unknown option -x {key}={value}; the options are: {known}.")


def check_revision(revision: str | None) -> None:
    if revision is not None and not runner.is_known_revision(context.script, revision):
        raise MigrationRefused(
            f"The database is at revision {revision}, which this code does not know: it is newer than the"
            f" code (whose head is {runner.head()}), or not Frontdesk's."
            " Deploy the code that belongs to it."
        )


def check_schema(connection: Connection) -> None:
    """Raise MigrationRefused if new tables would be created in another schema than the existing ones."""
    is_due = is_migration_command() and runner.schema_state(connection) is not SchemaState.AT_HEAD
    if is_due and (misplaced := schema_snapshot.search_path_problems(connection, Base.metadata.tables)):
        raise MigrationRefused(
            "New tables would be created in another schema than the existing ones:", tuple(misplaced)
        )
    connection.rollback()  # Alembic starts its own transactions


def is_migration_command() -> bool:
    """Return True for `upgrade`, `downgrade` and `stamp`: they have a target revision, `check` has none."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def should_include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Exclude tables of other programs, which may be in the same database, from `alembic check`."""
    return kind != "table" or name in Base.metadata.tables


def configure(connection: Connection) -> MigrationContext:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # Each revision commits separately, which keeps its result and releases its locks.
        transaction_per_migration=True,
        compare_server_default=True,
        include_name=should_include_name,
    )
    return context.get_context()


def run_migrations(connection: Connection) -> None:
    """Run the revisions, after the `preflight(connection)` functions of all of them.

    An installation whose upgrade stops half-way can run neither the old nor the new code. So the checks of
    all revisions run before the first change. Raises MigrationRefused if a check fails.
    """
    migration_context = configure(connection)
    steps_to = migration_context._migrations_fn  # Alembic offers no public hook between planning and running

    def checked_steps(heads: Any, context_: Any) -> Iterable[Any]:
        steps = list(steps_to(heads, context_)) if steps_to else []
        upgrades = [
            step for step in steps if getattr(step, "is_upgrade", False) and hasattr(step, "revision")
        ]
        if upgrades and (taken := adopt.index_name_conflicts(connection)):
            raise MigrationRefused("Indexes of other tables have names that the upgrade needs:", tuple(taken))
        for step in upgrades:
            getattr(step.revision.module, "preflight", lambda _: None)(connection)
        # End the transaction of the checks: concurrent index builds wait for open snapshots.
        connection.commit()
        return steps

    migration_context._migrations_fn = checked_steps
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise CommandError("--sql is not supported: the migrations read the rows that they convert.")
    check_options()
    with runner.migration_engine(database_url()) as engine:

        def attempt() -> None:
            with engine.connect() as connection:
                check_schema(connection)
                run_migrations(connection)

        def revision() -> str | None:
            with engine.connect() as connection:
                return read_revision(connection.exec_driver_sql)

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
    # Print the report here: Alembic would wrap its lines to the terminal's width and log it a second time.
    sys.stderr.write("".join(f"{line}\n" for line in refusal.report))
    raise CommandError(refusal.summary) from None
