"""Record of a sync run in the database: start, end, and the position for the next run."""

import logging
from datetime import datetime, timedelta

from sqlalchemy import func, select

from app.data_layer.unit_of_work import UnitOfWork
from app.errors import FrontdeskError
from app.repositories.sync_runs import SyncRunLog
from app.yclients.errors import YClientsNotFoundError
from app.yclients.ingest import Ingest
from app.yclients.syncing.summary import SyncSummary

log = logging.getLogger(__name__)

# Changes of this period before the last run are read again, because YClients' clock may be behind.
OVERLAP = timedelta(minutes=15)


class RunRecord:
    """Record of one run. A dry run is not recorded. Create it while holding the company's sync lock."""

    def __init__(self, ingest: Ingest, summary: SyncSummary) -> None:
        """Set `summary.changed_after` from the last complete run. Raises FrontdeskError."""
        self._ingest = ingest
        self._summary = summary
        self._run_id: int | None = None
        self.started_at, self._complete_until = ingest.transact(_read_sync_position)  # server time
        if summary.mode == "incremental" and self._complete_until is not None:
            summary.changed_after = self._complete_until - OVERLAP

    def start(self, kinds: list[str]) -> None:
        """Record the start of the run, unless it is recorded or the company is still unknown."""
        if self._run_id is not None or self._summary.is_dry_run or not self._ingest.is_known:
            return
        summary, started_at = self._summary, self.started_at
        self._run_id = self._ingest.transact(
            lambda uow: SyncRunLog(uow.session, summary.company_id).start(
                summary.mode, kinds, started_at, summary.changed_after
            )
        )

    def succeed(self, bookings_are_complete: bool) -> None:
        """Record the end of a successful run. Raises FrontdeskError."""
        until, since = self._complete_until, self._summary.changed_after
        has_gap = self._summary.mode == "since" and until is not None and since is not None and since > until
        notes = " ".join(self._summary.notes)
        self._end(
            complete_until=self.started_at if bookings_are_complete and not has_gap else None,
            error_code="incomplete" if notes else None,
            error_message=notes or None,
        )

    def fail(self, kinds: list[str], failure: FrontdeskError, code: str | None = None) -> None:
        """Record the failure of the run."""
        if self._run_id is None and isinstance(failure, YClientsNotFoundError):
            return  # an unknown salon is not created just to record the failure
        try:
            self._ingest.ensure_company()
            self.start(kinds)
            self._end(error_code=code or failure.code, error_message=failure.message)
        except FrontdeskError as error:
            # The caller raises the original failure. Status reports this run as interrupted.
            log.warning("The end of the sync could not be recorded: %s", error.message)

    def _end(
        self,
        complete_until: datetime | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        run_id, summary = self._run_id, self._summary
        if run_id is None:
            return
        counts = {name: kind.as_dict() for name, kind in summary.kinds.items()}
        self._ingest.transact(
            lambda uow: SyncRunLog(uow.session, summary.company_id).finish(
                run_id, counts, summary.requests, complete_until, error_code, error_message
            )
        )


def _read_sync_position(uow: UnitOfWork) -> tuple[datetime, datetime | None]:
    """Return the server time, and the time up to which all changes of YClients are stored."""
    now: datetime = uow.session.scalars(select(func.now())).one()
    return now, SyncRunLog(uow.session, uow.tenant.company_id).complete_until()
