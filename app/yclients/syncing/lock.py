"""Lock that allows one sync per company at a time, across machines."""

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg

from app.config import Settings
from app.data_layer.unit_of_work import UnitOfWork
from app.database.connection import Connection, connect_directly
from app.errors import to_frontdesk_error
from app.yclients.errors import SyncRunningError

_LOCK_KEY_SQL = "hashtextextended('yclients sync of company ' || %(company_id)s::text, 0)"
_RUNNING_COMPANIES_SQL = f"""
    SELECT company_id FROM unnest(%(company_ids)s::bigint[]) AS wanted (company_id)
    WHERE EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (classid::bigint << 32) | objid::bigint = {_LOCK_KEY_SQL % {"company_id": "wanted.company_id"}}
    )
"""  # noqa: S608 - the key contains a column name, not a value


@contextmanager
def hold_sync_lock(settings: Settings, company_id: int) -> Iterator[None]:
    """Hold the sync lock of a company during the block. Raises SyncRunningError if another session holds it.

    The lock belongs to a direct connection, because a pooler would share the session with other clients. If
    the process is killed, the server closes the connection and releases the lock.
    """
    try:
        connection = connect_directly(settings)
    except psycopg.Error as error:
        raise to_frontdesk_error(error) from error
    with closing(connection):
        try:
            ((is_acquired,),) = connection.execute(
                f"SELECT pg_try_advisory_lock({_LOCK_KEY_SQL})", {"company_id": company_id}
            )
        except psycopg.Error as error:
            raise to_frontdesk_error(error) from error
        if not is_acquired:
            raise SyncRunningError
        try:
            yield
        finally:
            # Closing the connection releases the lock too, but with a delay.
            with suppress(psycopg.Error):  # a lost connection has released the lock
                connection.execute(f"SELECT pg_advisory_unlock({_LOCK_KEY_SQL})", {"company_id": company_id})


def is_sync_running(uow: UnitOfWork) -> bool:
    """Return True if a process is syncing the company of the unit of work."""
    connection = uow.session.connection()
    parameters = {"company_ids": [uow.tenant.company_id]}
    return connection.exec_driver_sql(_RUNNING_COMPANIES_SQL, parameters).scalar() is not None


def find_running_companies(connection: Connection, company_ids: Collection[int]) -> set[int]:
    """Return the ids of the companies that a process is syncing."""
    if not company_ids:
        return set()
    rows = connection.execute(_RUNNING_COMPANIES_SQL, {"company_ids": [*company_ids]}).fetchall()
    return {row[0] for row in rows}
