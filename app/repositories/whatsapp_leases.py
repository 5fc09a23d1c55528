"""The lease of a salon's WhatsApp session, and the highest session count for its health check."""

from datetime import timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.models import WhatsAppKey, WhatsAppState


class WhatsAppLeases:
    """The lease of one company's session, in a unit of work. A worker holds it until it expires."""

    def __init__(self, session: Session, company_id: int) -> None:
        self._session = session
        self._company_id = company_id

    def take_lease(self, owner: str, lease: timedelta) -> str | None:
        """Give the lease to `owner` even if another worker holds it.

        Returns the other worker if its lease had not expired, else None.
        """
        before = self._session.scalars(
            select(WhatsAppState.owner).where(
                WhatsAppState.company_id == self._company_id,
                WhatsAppState.owner != owner,
                WhatsAppState.held_until > func.now(),
            )
        ).one_or_none()
        held = {"owner": owner, "held_until": func.now() + lease, "updated_at": func.now()}
        self._session.execute(
            insert(WhatsAppState)
            .values(company_id=self._company_id, **held)
            .on_conflict_do_update(index_elements=["company_id"], set_=held)
        )
        return before

    def renew_lease(self, owner: str, lease: timedelta) -> bool:
        """Take or extend the lease for `owner`. Return False if another worker holds an unexpired lease."""
        held = {"owner": owner, "held_until": func.now() + lease, "updated_at": func.now()}
        statement = (
            insert(WhatsAppState)
            .values(company_id=self._company_id, **held)
            .on_conflict_do_update(
                index_elements=["company_id"],
                set_=held,
                where=or_(
                    WhatsAppState.owner.is_(None),
                    WhatsAppState.owner == owner,
                    WhatsAppState.held_until < func.now(),
                ),
            )
            .returning(WhatsAppState.id)
        )
        return self._session.scalar(statement) is not None

    def record_conflict(self, owner: str) -> None:
        """Record that `owner` tried to write while another worker held the lease."""
        self._session.execute(
            update(WhatsAppState)
            .where(WhatsAppState.company_id == self._company_id)
            .values(contested_at=func.now(), contested_by=owner, updated_at=func.now())
        )

    def release_lease(self, owner: str) -> None:
        """Release the lease if `owner` holds it."""
        self._session.execute(
            update(WhatsAppState)
            .where(WhatsAppState.company_id == self._company_id, WhatsAppState.owner == owner)
            .values(owner=None, held_until=None, updated_at=func.now())
        )

    def record_max_sessions(self) -> None:
        """Store the number of session keys if it exceeds the highest number stored so far.

        Call it before sessions are deleted.
        """
        sessions = (
            select(WhatsAppKey.company_id, func.count().label("most_sessions"))
            .where(WhatsAppKey.company_id == self._company_id, WhatsAppKey.key_type == "session")
            .group_by(WhatsAppKey.company_id)
        )
        statement = insert(WhatsAppState).from_select(["company_id", "most_sessions"], sessions)
        new = statement.excluded.most_sessions
        self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["company_id"],
                set_={"most_sessions": new, "updated_at": func.now()},
                where=WhatsAppState.most_sessions < new,
            )
        )

    def delete(self) -> None:
        """Delete the company's row of lease and health data."""
        self._session.execute(delete(WhatsAppState).where(WhatsAppState.company_id == self._company_id))
