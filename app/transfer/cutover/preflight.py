"""Preconditions of a cutover or rollback, checked before writes are paused."""

from collections.abc import Iterable, Iterator

from app.database.alembic_revision import read_revision
from app.database.connection import Connection
from app.errors import ConflictError
from app.transfer.protocol import change_capture
from app.transfer.protocol.endpoints import SideName, require_different_databases
from app.transfer.protocol.stages import other_side
from app.transfer.protocol.tables import ALEMBIC_TABLE, SCHEMA, transfer_tables
from app.transfer.relay import sequences
from app.transfer.relay.apply_cycle import is_change_log_empty
from app.transfer.relay.session_pair import SessionPair

_SEQUENCES = """
    SELECT nspname || '.' || relname FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY(%(schemas)s)
        AND CASE relkind WHEN 'S' THEN NOT pg_catalog.has_sequence_privilege(pg_class.oid, 'UPDATE') END
    ORDER BY 1
"""


def check(link: SessionPair, source: SideName) -> None:
    """Check all preconditions. Raises ConflictError with every problem and its remedy if there are any."""
    problems = list(_find_problems(link, source))
    if problems:
        raise ConflictError(f"Cannot change the live side: {'; '.join(problems)}.")


def _find_problems(link: SessionPair, source: SideName) -> Iterator[str]:
    target = other_side(source)
    sessions: dict[SideName, Connection] = {name: link.session(name) for name in (source, target)}
    require_different_databases(sessions["legacy"], sessions["primary"])
    for name, session in sessions.items():
        unguarded = change_capture.tables_without_triggers(session)
        if unguarded:
            yield (
                f"{name}: tables without fence and capture: {', '.join(unguarded)}:"
                " run `frontdesk transfer start`"
            )
    try:
        link.require_complete_copy(source)
    except ConflictError as error:
        yield error.message.rstrip(".")
    if len({read_revision(session.execute, ALEMBIC_TABLE) for session in sessions.values()}) > 1:
        yield "the two sides have different Alembic revisions: run `alembic upgrade head` on both"
    if not is_change_log_empty(sessions[target]):
        yield (
            f"{target} is the standby, but its change log holds changes made there:"
            " run `frontdesk transfer verify` to see whether its rows differ"
        )
    if source == "legacy" and _last_verification(sessions.values()) is False:
        yield "the last verification found differences: run `frontdesk transfer repair`, then verify again"
    schemas = sorted({table.schema for table in transfer_tables(sessions[source])})
    on_source, on_target = (
        {sequence[:2] for sequence in sequences.find(sessions[name], schemas)} for name in (source, target)
    )
    if on_source - on_target:
        yield f"{target}: sequences are missing: {', '.join(map('.'.join, sorted(on_source - on_target)))}"
    denied = [name for (name,) in sessions[target].execute(_SEQUENCES, {"schemas": schemas})]
    if denied:
        yield (
            f"{target}: no permission to set the sequences {', '.join(denied)}:"
            " run GRANT UPDATE ON SEQUENCE … for this role"
        )


def _last_verification(sessions: Iterable[Connection]) -> bool | None:
    query = f"SELECT at, equal FROM {SCHEMA}.verifications ORDER BY at DESC LIMIT 1"
    rows = [row for session in sessions if (row := session.execute(query).fetchone())]
    return max(rows)[1] if rows else None
