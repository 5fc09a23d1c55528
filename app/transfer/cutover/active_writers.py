"""Transactions that currently write on a side: the holders of the fence's advisory lock."""

from time import monotonic, sleep

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection

WRITER_POLL_SECONDS = 0.05

_HOLDERS = """
    SELECT pid, virtualtransaction FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(lock)s
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""
_ACTIVITY = """
    SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int
    FROM pg_catalog.pg_stat_activity WHERE pid = ANY(%(pids)s) ORDER BY xact_start
"""


def wait_for_long_writers(connection: Connection, timeout: float) -> bool:
    """Wait until no writing transaction is older than WRITER_POLL_SECONDS, for at most `timeout` seconds.

    Closing the side then waits for short transactions only, and so do the writers queued behind it.
    Returns False on a timeout.
    """
    deadline = monotonic() + timeout
    present = _holders(connection)
    while present and monotonic() < deadline:
        sleep(WRITER_POLL_SECONDS)
        following = _holders(connection)
        if not present & following:
            return True
        present = following
    return not present


def describe(connection: Connection) -> str:
    """List up to five writing transactions with process id, application and age, without statement texts."""
    pids = [pid for pid, _ in _holders(connection)]
    if not pids:
        return "transactions that have ended meanwhile"
    rows = connection.execute(_ACTIVITY, {"pids": pids}).fetchall()
    known: dict[int | None, str] = {pid: f"{pid} ({name or 'unnamed'}, {age} s)" for pid, name, age in rows}
    # A prepared transaction has no process.
    return ", ".join(
        known.get(pid, "a prepared transaction" if pid is None else str(pid)) for pid in pids[:5]
    )


def _holders(connection: Connection) -> set[tuple[int | None, str]]:
    rows = connection.execute(_HOLDERS, {"lock": AdvisoryLock.TRANSFER_FENCE})
    return {(pid, transaction) for pid, transaction in rows}
