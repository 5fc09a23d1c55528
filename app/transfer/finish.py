"""The end of a move: everything that belongs to it is removed from both sides."""

from collections.abc import Callable
from typing import Any

import psycopg

from app.errors import ConflictError, UnavailableError
from app.transfer.protocol import change_capture, control_schema
from app.transfer.protocol.endpoints import APPLICATION_NAME, Side, SideName, Sides
from app.transfer.protocol.lock_retries import LOCK_TIMEOUT, with_lock_retries
from app.transfer.protocol.stages import Stage, read_side_rows, stage_of
from app.transfer.protocol.tables import SCHEMA
from app.transfer.relay.apply_cycle import is_change_log_empty

OnStep = Callable[[str], object]

_SESSIONS = """
    SELECT coalesce(nullif(application_name, ''), 'unnamed'), count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND application_name <> %(ours)s
    GROUP BY 1 ORDER BY 1
"""


def finish(
    sides: Sides, *, force: bool = False, dry_run: bool = False, on_step: OnStep = lambda step: None
) -> None:
    """Remove triggers, functions and tables of the move from both sides; safe to repeat.

    It leaves whichever side is live as it is: after a cutover the move has succeeded, before it the move is
    given up. Refuses, unless forced, in the middle of a switch, with changes that only the log knows, and
    while services are connected to a legacy that is not live any more: without the rows that tell them where
    to go, they would write there. A legacy that is gone for good is left out where it is forced.
    Raises ConflictError, UnavailableError.
    """
    reachable: list[tuple[Side, psycopg.Connection[Any]]] = []
    try:
        for side in sides:
            try:
                reachable.append((side, side.connect()))
            except UnavailableError:
                if not force or side.name == "primary":
                    raise
                on_step(f"{side.name}: cannot be reached, left as it is")
        if not force:
            _require_finishable({side.name: connection for side, connection in reachable})
        for side, connection in reachable:
            _remove(side, connection, dry_run, on_step)
    finally:
        for _, connection in reachable:
            connection.close()


def _require_finishable(connections: dict[SideName, psycopg.Connection[Any]]) -> None:
    rows = read_side_rows(connections)
    stage = stage_of(rows["legacy"], rows["primary"])
    if stage in (Stage.CLOSING, Stage.HANDED_OVER, Stage.BROKEN):
        raise ConflictError(f"The move is {stage.value}: `frontdesk transfer status` says what to do.")
    if stage is not Stage.CUT_OVER:
        return
    if not is_change_log_empty(connections["legacy"]):
        raise ConflictError(
            "Changes were made on legacy that primary does not have: `frontdesk transfer verify`,"
            " and `frontdesk transfer repair`; or --force, to leave them behind."
        )
    sessions = connections["legacy"].execute(_SESSIONS, {"ours": APPLICATION_NAME}).fetchall()
    if sessions:
        listed = ", ".join(f"{name} ({count})" for name, count in sessions)
        raise ConflictError(
            f"Sessions are open on legacy: {listed}. Take LEGACY_DATABASE_URL out of the services'"
            " configuration and restart them, then finish (with LEGACY_DATABASE_URL for this command alone);"
            " or --force."
        )


def _remove(side: Side, connection: psycopg.Connection[Any], dry_run: bool, on_step: OnStep) -> None:
    if not control_schema.has_leftovers(connection):
        on_step(f"{side.name}: nothing is left")
        return
    tables = change_capture.tables_with_triggers(connection)
    if not dry_run:
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        with_lock_retries(connection, lambda: change_capture.drop_triggers(connection))
        with_lock_retries(connection, lambda: control_schema.drop(connection))
    on_step(f"{side.name}: triggers of {len(tables)} tables, schema {SCHEMA}")
