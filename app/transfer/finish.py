"""The `finish` command: remove the transfer's triggers and control schema from both sides."""

from collections.abc import Callable

from app.database.connection import Connection
from app.errors import ConflictError, UnavailableError
from app.transfer.protocol import change_capture, control_schema
from app.transfer.protocol.endpoints import APPLICATION_NAME, Side, SideName, Sides
from app.transfer.protocol.exclusive_step import LOCK_TIMEOUT, run_exclusive_step
from app.transfer.protocol.stages import Stage, read_side_rows, stage_of
from app.transfer.protocol.tables import SCHEMA
from app.transfer.relay.apply_cycle import is_change_log_empty

OnStep = Callable[[str], object]

_SESSIONS = """
    SELECT coalesce(nullif(application_name, ''), 'unnamed'), count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND application_name <> %(own)s
    GROUP BY 1 ORDER BY 1
"""


def finish(
    sides: Sides, *, force: bool = False, dry_run: bool = False, on_step: OnStep = lambda step: None
) -> None:
    """Remove the transfer's triggers, functions and tables from both sides. It is safe to repeat.

    The live side stays live: after a cutover the transfer is complete, before a cutover it is aborted.

    Args:
        sides: The two databases.
        force: Skip the checks, and skip legacy if it cannot be reached.
        dry_run: Check and report, but remove nothing.
        on_step: Called with a line of text for each side.

    Raises:
        ConflictError: A switch is in progress; or legacy has changes that primary lacks; or, after a cutover,
            sessions are open on legacy. Without the state rows that route them to primary, services would
            write to legacy.
        UnavailableError: A side cannot be reached.
    """
    reachable: list[tuple[Side, Connection]] = []
    try:
        for side in sides:
            try:
                reachable.append((side, side.connect()))
            except UnavailableError:
                if not force or side.name == "primary":
                    raise
                on_step(f"{side.name}: cannot be reached, skipped")
        if not force:
            _require_finishable({side.name: connection for side, connection in reachable})
        for side, connection in reachable:
            _remove(side, connection, dry_run, on_step)
    finally:
        for _, connection in reachable:
            connection.close()


def _require_finishable(connections: dict[SideName, Connection]) -> None:
    rows = read_side_rows(connections)
    stage = stage_of(rows["legacy"], rows["primary"])
    if stage in (Stage.CLOSING, Stage.HANDED_OVER, Stage.BROKEN):
        raise ConflictError(
            f"The transfer is {stage.value}: run `frontdesk transfer status` and follow its next step."
        )
    if stage is not Stage.CUT_OVER:
        return
    if not is_change_log_empty(connections["legacy"]):
        raise ConflictError(
            "Legacy has changes that primary does not have: run `frontdesk transfer verify` and"
            " `frontdesk transfer repair`, or use --force to discard these changes."
        )
    sessions = connections["legacy"].execute(_SESSIONS, {"own": APPLICATION_NAME}).fetchall()
    if sessions:
        listed = ", ".join(f"{name} ({count})" for name, count in sessions)
        raise ConflictError(
            f"Sessions are open on legacy: {listed}. Remove LEGACY_DATABASE_URL from the services'"
            " configuration and restart them, then run finish with LEGACY_DATABASE_URL set for this command"
            " only; or use --force."
        )


def _remove(side: Side, connection: Connection, dry_run: bool, on_step: OnStep) -> None:
    if not control_schema.has_leftovers(connection):
        on_step(f"{side.name}: nothing to remove")
        return
    tables = change_capture.tables_with_triggers(connection)
    if not dry_run:
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        run_exclusive_step(connection, lambda: change_capture.drop_triggers(connection))
        run_exclusive_step(connection, lambda: control_schema.drop(connection))
    on_step(f"{side.name}: triggers of {len(tables)} tables, schema {SCHEMA}")
