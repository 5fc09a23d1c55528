"""Queries of the server's state and of the syncs of all companies, for operators only."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.database.connection import Connection


class ServerStatistics(NamedTuple):
    """Figures of the server. `commits` and `rollbacks`: of this database, since its last statistics reset."""

    version: str
    connections: int
    max_connections: int
    reserved: int
    commits: int
    rollbacks: int
    is_read_only: bool


class ProgramConnections(NamedTuple):
    """The connections of one program (`application_name`) to this database.

    `oldest_transaction_start` is the start of the program's oldest open transaction.
    """

    program: str
    total: int
    active: int
    in_transaction: int
    oldest_transaction_start: datetime | None


class LastSyncRun(NamedTuple):
    """The newest sync run of a company. `last_success` is the end of its newest successful run."""

    company_id: int
    mode: str
    started_at: datetime
    finished_at: datetime | None
    error_code: str | None
    last_success: datetime | None


def read_server_statistics(connection: Connection) -> ServerStatistics:
    """Return figures of the server. The connections include all databases and programs."""
    (row,) = connection.execute(
        "SELECT current_setting('server_version'),"
        " (SELECT sum(numbackends) FROM pg_stat_database)::bigint,"
        " current_setting('max_connections')::int,"
        " current_setting('superuser_reserved_connections')::int,"
        " xact_commit, xact_rollback, current_setting('transaction_read_only')::bool"
        " FROM pg_stat_database WHERE datname = current_database()"
    )
    return ServerStatistics(*row)


def is_read_only(connection: Connection) -> bool:
    """Return True if the database is read-only: a standby, or `default_transaction_read_only` is set."""
    return bool(connection.execute("SHOW transaction_read_only").fetchone() == ("on",))


def read_connections(connection: Connection) -> Sequence[ProgramConnections]:
    """Return the other connections to this database by program, most connections first."""
    rows = connection.execute(
        "SELECT COALESCE(NULLIF(application_name, ''), '(no name)') AS program, count(*),"
        " count(*) FILTER (WHERE state = 'active'),"
        " count(*) FILTER (WHERE state LIKE 'idle in transaction%'), min(xact_start)"
        " FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        " AND pid <> pg_backend_pid() GROUP BY program ORDER BY count(*) DESC, program"
    )
    return [ProgramConnections(*row) for row in rows]


def read_last_sync_runs(connection: Connection) -> Sequence[LastSyncRun]:
    """Return the newest sync run of every company that has one."""
    rows = connection.execute(
        "SELECT c.company_id, run.mode, run.started_at, run.finished_at, run.error_code, well.finished_at"
        " FROM companies AS c"
        " CROSS JOIN LATERAL (SELECT * FROM sync_runs AS r WHERE r.company_id = c.company_id"
        " ORDER BY r.id DESC LIMIT 1) AS run"
        " LEFT JOIN LATERAL (SELECT r.finished_at FROM sync_runs AS r WHERE r.company_id = c.company_id"
        " AND r.finished_at IS NOT NULL AND r.error_code IS NULL ORDER BY r.id DESC LIMIT 1) AS well ON true"
        " ORDER BY c.company_id"
    )
    return [LastSyncRun(*row) for row in rows]
