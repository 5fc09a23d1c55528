"""Setting up a move: capture and fence on both sides, before the first row is copied."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import Any

import psycopg

from app.errors import ConflictError
from app.transfer.planning import plan
from app.transfer.planning.plan import Plan
from app.transfer.protocol import change_capture, control_schema, journal
from app.transfer.protocol.endpoints import Side, Sides, require_different_databases
from app.transfer.protocol.lock_retries import LOCK_TIMEOUT, with_lock_retries
from app.transfer.protocol.tables import SCHEMA, TableInfo

OnStep = Callable[[str], object]


def start(
    sides: Sides,
    include: Collection[str] = (),
    leave_out: Collection[str] = (),
    *,
    dry_run: bool = False,
    on_step: OnStep = lambda step: None,
) -> Plan:
    """Set up both sides: legacy open, primary standby, every change on either side captured.

    Safe to repeat, and to resume after `kill -9`. Raises ConflictError for what is in the way,
    a transaction that does not let go of its tables among it, and InvalidInputError for names that nothing
    bears.
    """
    with closing(sides.legacy.connect()) as legacy, closing(sides.primary.connect()) as primary:
        require_different_databases(legacy, primary)
        found = plan.make_plan_on_sessions(legacy, primary, None, include, leave_out)
        _require_ready(found)
        if dry_run:
            return found
        # Legacy first: without a row it would be live all the same, and a primary alone must not be.
        for side, connection in ((sides.legacy, legacy), (sides.primary, primary)):
            connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
            _set_up(side, connection, found.transfer_tables, on_step)
        journal.record(legacy, "start", tables=len(found.transfer_tables), left_out=list(found.left_out))
    return found


def _require_ready(transfer_plan: Plan) -> None:
    if not transfer_plan.blocking_findings:
        return
    first = transfer_plan.blocking_findings[0]
    others = len(transfer_plan.blocking_findings) - 1
    more = f" (and {others} more)" if others else ""
    raise ConflictError(
        f"In the way: {first.kind} {first.name} on {first.side}: {first.problem}{more}."
        " `frontdesk transfer plan` names all of it, and what to do."
    )


def _set_up(
    side: Side, connection: psycopg.Connection[Any], tables: Sequence[TableInfo], on_step: OnStep
) -> None:
    on_step(f"{side.name}: schema {SCHEMA}")
    with_lock_retries(connection, lambda: control_schema.create(connection, list(tables)))
    connection.execute(
        f"INSERT INTO {SCHEMA}.side (name, state, epoch) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING",
        (side.name, "open" if side.name == "legacy" else "standby"),
    )
    missing = set(change_capture.tables_without_triggers(connection))
    for table in tables:
        if table.name in missing:
            on_step(f"{side.name}: triggers on {table.name}")
            with_lock_retries(connection, lambda table=table: change_capture.add_triggers(connection, table))  # type: ignore[misc] # a lambda's default has no annotation
