"""Status of syncs: the last runs of one company or of all, for operators."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.data_layer.unit_of_work import UnitOfWork
from app.database.connection import Connection
from app.errors import DRIVER_ERRORS, to_frontdesk_error
from app.frontdesk import Frontdesk
from app.models import SyncRun
from app.repositories.server_activity import LastSyncRun, read_last_sync_runs
from app.repositories.sync_runs import SyncRunLog
from app.yclients.syncing.lock import find_running_companies, is_sync_running

MAX_LISTED = 10  # runs per company


class SyncState(Enum):
    """State of a run."""

    DONE = "done"
    INCOMPLETE = "incomplete"  # done, but some rows of YClients are missing
    FAILED = "failed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped by a user, or the process was killed

    @property
    def is_healthy(self) -> bool:
        return self in (SyncState.DONE, SyncState.RUNNING)


@dataclass(frozen=True)
class SyncRunStatus:
    """One run and its state."""

    run: SyncRun
    state: SyncState

    @property
    def written(self) -> int:
        """Number of rows inserted, updated or marked as deleted."""
        names = ("inserted", "updated", "deleted")
        return sum(counts.get(name, 0) for counts in self.run.counts.values() for name in names)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the run."""
        run = self.run
        names = (
            "company_id",
            "id",
            "mode",
            "kinds",
            "changed_after",
            "started_at",
            "finished_at",
            "requests",
        )
        return {
            **{name: getattr(run, name) for name in names},
            "state": self.state.value,
            "written": self.written,
            "counts": run.counts,
            "error": {"code": run.error_code, "message": run.error_message} if run.error_code else None,
        }


def sync_status(
    desk: Frontdesk, company_id: int | None = None, limit: int = MAX_LISTED
) -> dict[int, list[SyncRunStatus]]:
    """Return the last runs by company, the newest first. Raises FrontdeskError."""
    companies = [company_id] if company_id is not None else _companies(desk)
    return {company: desk.transact(company, lambda uow: _runs(uow, limit)) for company in companies}


def _companies(desk: Frontdesk) -> list[int]:
    """Return the companies with sync runs, across tenants, for operators only."""
    statement = "SELECT DISTINCT company_id FROM sync_runs ORDER BY company_id"
    try:
        return [row[0] for row in desk.database.read(lambda c: c.execute(statement).fetchall())]
    except DRIVER_ERRORS as error:
        raise to_frontdesk_error(error) from error


def _runs(uow: UnitOfWork, limit: int) -> list[SyncRunStatus]:
    runs = SyncRunLog(uow.session, uow.tenant.company_id).latest(limit)
    is_running = any(run.finished_at is None for run in runs) and is_sync_running(uow)
    return [SyncRunStatus(run, _state(run, is_running)) for run in runs]


def last_syncs(connection: Connection) -> list[tuple[LastSyncRun, SyncState]]:
    """Return the newest run of every company with its state. Raises the errors of psycopg."""
    runs = read_last_sync_runs(connection)
    running = find_running_companies(connection, [run.company_id for run in runs if run.finished_at is None])
    return [(run, _state(run, run.company_id in running)) for run in runs]


def _state(run: SyncRun | LastSyncRun, is_running: bool) -> SyncState:
    if run.finished_at is None:
        return SyncState.RUNNING if is_running else SyncState.INTERRUPTED
    states = {None: SyncState.DONE, "incomplete": SyncState.INCOMPLETE, "interrupted": SyncState.INTERRUPTED}
    return states.get(run.error_code, SyncState.FAILED)
