"""How the syncs stand: the last runs of one company or of all, for operators."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.data_layer.unit_of_work import UnitOfWork
from app.database.database import Connection
from app.errors import RAW_ERRORS, from_driver
from app.frontdesk import Frontdesk
from app.models import SyncRun
from app.repositories.server_activity import LastRun, last_runs
from app.repositories.sync_runs import SyncRuns
from app.yclients.syncing.lock import is_running, running

LISTED = 10  # runs of each company


class State(Enum):
    """What became of a run."""

    DONE = "done"
    INCOMPLETE = "incomplete"  # done, but not all that YClients has is here
    FAILED = "failed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped by hand, or its process was killed

    @property
    def is_well(self) -> bool:
        return self in (State.DONE, State.RUNNING)


@dataclass(frozen=True)
class RunStatus:
    """One run and its state."""

    run: SyncRun
    state: State

    @property
    def written(self) -> int:
        """Rows inserted, changed or marked as deleted."""
        names = ("inserted", "updated", "deleted")
        return sum(counts.get(name, 0) for counts in self.run.counts.values() for name in names)

    def as_dict(self) -> dict[str, Any]:
        """The run as JSON has it."""
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
    desk: Frontdesk, company_id: int | None = None, limit: int = LISTED
) -> dict[int, list[RunStatus]]:
    """The last runs by company, the newest first. Raises FrontdeskError."""
    companies = [company_id] if company_id is not None else _companies(desk)
    return {each: desk.transact(each, lambda uow: _runs(uow, limit)) for each in companies}


def _companies(desk: Frontdesk) -> list[int]:
    """Whose syncs there are: an operator looks at the installation, not at a tenant's rows."""
    statement = "SELECT DISTINCT company_id FROM sync_runs ORDER BY company_id"
    try:
        return [row[0] for row in desk.database.read(lambda c: c.execute(statement).fetchall())]
    except RAW_ERRORS as error:
        raise from_driver(error) from error


def _runs(uow: UnitOfWork, limit: int) -> list[RunStatus]:
    runs = SyncRuns(uow.session, uow.scope.company_id).latest(limit)
    under_way = any(run.finished_at is None for run in runs) and is_running(uow)
    return [RunStatus(run, _state(run, under_way)) for run in runs]


def last_syncs(connection: Connection) -> list[tuple[LastRun, State]]:
    """The newest run of every company and its state, in two statements. Raises psycopg's errors."""
    runs = last_runs(connection)
    under_way = running(connection, [run.company_id for run in runs if run.finished_at is None])
    return [(run, _state(run, run.company_id in under_way)) for run in runs]


def _state(run: SyncRun | LastRun, under_way: bool) -> State:
    if run.finished_at is None:
        return State.RUNNING if under_way else State.INTERRUPTED
    known = {None: State.DONE, "incomplete": State.INCOMPLETE, "interrupted": State.INTERRUPTED}
    return known.get(run.error_code, State.FAILED)
