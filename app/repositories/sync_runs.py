"""History of the sync runs of a company."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from app.models import SyncRun


class SyncRunLog:
    """The sync runs of one company, in a unit of work."""

    def __init__(self, session: Session, company_id: int) -> None:
        self._session = session
        self._company_id = company_id

    def start(
        self, mode: str, kinds: Sequence[str], started_at: datetime, changed_after: datetime | None
    ) -> int:
        """Insert a run and return its id. The caller holds the lock of the company's sync.

        Earlier runs without an end are marked as interrupted: because of the lock, they cannot be running.
        """
        self._session.execute(
            update(SyncRun)
            .where(SyncRun.company_id == self._company_id, SyncRun.finished_at.is_(None))
            .values(
                finished_at=func.now(),
                updated_at=func.now(),
                error_code="interrupted",
                error_message="The process ended before the sync finished.",
            )
        )
        return self._session.scalars(
            insert(SyncRun)
            .values(
                company_id=self._company_id,
                mode=mode,
                kinds=list(kinds),
                started_at=started_at,
                changed_after=changed_after,
            )
            .returning(SyncRun.id)
        ).one()

    def finish(
        self,
        run_id: int,
        counts: Mapping[str, Any],
        requests: int,
        complete_until: datetime | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        """Store the result of a run. A successful run has no `error_code` and no `error_message`."""
        self._session.execute(
            update(SyncRun)
            .where(SyncRun.company_id == self._company_id, SyncRun.id == run_id)
            .values(
                finished_at=func.now(),
                updated_at=func.now(),
                counts=dict(counts),
                requests=requests,
                complete_until=complete_until,
                error_code=error_code,
                error_message=error_message,
            )
        )

    def complete_until(self) -> datetime | None:
        """Return the time before which all changes of bookings in YClients are stored; None if unknown."""
        return self._session.scalars(
            select(func.max(SyncRun.complete_until)).where(SyncRun.company_id == self._company_id)
        ).one()

    def latest(self, limit: int) -> Sequence[SyncRun]:
        """Return the last runs, newest first."""
        return self._session.scalars(
            select(SyncRun)
            .where(SyncRun.company_id == self._company_id)
            .order_by(SyncRun.id.desc())
            .limit(limit)
        ).all()
