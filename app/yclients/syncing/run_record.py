"""How a run of the sync is recorded: its begin, its end, and where the next one goes on."""

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

# What changed while the last run was reading, or by a clock that is behind ours, comes again.
OVERLAP = timedelta(minutes=15)


class RunRecord:
    """The row of one run; a dry run has none. Make it under the lock of the company's sync."""

    def __init__(self, ingest: Ingest, summary: SyncSummary) -> None:
        """Decide what the run goes on from: `summary.changed_after`. Raises FrontdeskError."""
        self._ingest = ingest
        self._summary = summary
        self._run_id: int | None = None
        self.started_at, self._complete_until = ingest.transact(_read_sync_position)  # by the server's clock
        if summary.mode == "incremental" and self._complete_until is not None:
            summary.changed_after = self._complete_until - OVERLAP

    def start(self, kinds: list[str]) -> None:
        """Record that the run is under way, as soon as there is a company to record it for."""
        if self._run_id is not None or self._summary.is_dry_run or not self._ingest.is_known:
            return
        summary, started_at = self._summary, self.started_at
        self._run_id = self._ingest.transact(
            lambda uow: SyncRunLog(uow.session, summary.company_id).start(
                summary.mode, kinds, started_at, summary.changed_after
            )
        )

    def succeed(self, bookings_are_complete: bool) -> None:
        """Record the end of a run that did its work. Raises FrontdeskError."""
        until, since = self._complete_until, self._summary.changed_after
        has_gap = self._summary.mode == "since" and until is not None and since is not None and since > until
        notes = " ".join(self._summary.notes)
        self._end(
            complete_until=self.started_at if bookings_are_complete and not has_gap else None,
            error_code="incomplete" if notes else None,
            error_message=notes or None,
        )

    def fail(self, kinds: list[str], failure: FrontdeskError, code: str | None = None) -> None:
        """Record what stopped the run."""
        if self._run_id is None and isinstance(failure, YClientsNotFoundError):
            return  # nobody knows such a salon: none is made to record it for
        try:
            self._ingest.ensure_company()
            self.start(kinds)
            self._end(error_code=code or failure.code, error_message=failure.message)
        except FrontdeskError as error:
            # The failure itself is raised; the next run finds this one unfinished.
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
    """The server's time, and until when everything changed upstream is here."""
    now: datetime = uow.session.scalars(select(func.now())).one()
    return now, SyncRunLog(uow.session, uow.tenant.company_id).complete_until()
