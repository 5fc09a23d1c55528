"""The `start` command: set up change capture and the fence on both sides, before any row is copied."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing

from app.database.connection import Connection
from app.errors import ConflictError
from app.transfer.planning import plan
from app.transfer.planning.plan import Plan
from app.transfer.protocol import change_capture, control_schema, journal
from app.transfer.protocol.endpoints import Side, Sides, require_different_databases
from app.transfer.protocol.exclusive_step import LOCK_TIMEOUT, run_exclusive_step
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
    """Set up both sides: legacy is open, primary is the standby, and changes on either side are captured.

    It is safe to repeat, also after `kill -9`.

    Args:
        sides: The two databases.
        include: Tables outside Frontdesk's models that are transferred as well, for example `public.extra`.
        leave_out: Names or patterns of other objects to ignore; see `make_plan`.
        dry_run: Check and plan, but change nothing.
        on_step: Called with a line of text before each step.

    Returns:
        The plan of the transfer.

    Raises:
        ConflictError: The plan has blocking findings, or another transaction keeps its lock on a table.
        InvalidInputError: A name in `include` or `leave_out` matches no object.
    """
    with closing(sides.legacy.connect()) as legacy, closing(sides.primary.connect()) as primary:
        require_different_databases(legacy, primary)
        transfer_plan = plan.make_plan_on_sessions(legacy, primary, None, include, leave_out)
        _require_ready(transfer_plan)
        if dry_run:
            return transfer_plan
        # Legacy first: legacy counts as live with or without its row. Primary must not have the only row.
        for side, connection in ((sides.legacy, legacy), (sides.primary, primary)):
            connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
            _set_up(side, connection, transfer_plan.transfer_tables, on_step)
        journal.record(
            legacy,
            "start",
            tables=len(transfer_plan.transfer_tables),
            left_out=list(transfer_plan.left_out),
        )
    return transfer_plan


def _require_ready(transfer_plan: Plan) -> None:
    if not transfer_plan.blocking_findings:
        return
    first = transfer_plan.blocking_findings[0]
    others = len(transfer_plan.blocking_findings) - 1
    more = f" (and {others} more)" if others else ""
    raise ConflictError(
        f"The transfer cannot start: {first.kind} {first.name} on {first.side}: {first.problem}{more}."
        " Run `frontdesk transfer plan` for all problems and their remedies."
    )


def _set_up(side: Side, connection: Connection, tables: Sequence[TableInfo], on_step: OnStep) -> None:
    on_step(f"{side.name}: schema {SCHEMA}")
    run_exclusive_step(connection, lambda: control_schema.create(connection, list(tables)))
    connection.execute(
        f"INSERT INTO {SCHEMA}.side (name, state, epoch) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING",
        (side.name, "open" if side.name == "legacy" else "standby"),
    )
    missing = set(change_capture.tables_without_triggers(connection))
    for table in tables:
        if table.name in missing:
            on_step(f"{side.name}: triggers on {table.name}")
            run_exclusive_step(connection, lambda table=table: change_capture.add_triggers(connection, table))  # type: ignore[misc] # a lambda's default has no annotation
