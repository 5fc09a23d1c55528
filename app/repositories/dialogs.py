"""Dialogue contexts, one for each person who writes to the salon."""

from app.database.bulk_merge import Freshness, Target
from app.models import DialogContext
from app.repositories.base import Repository
from app.schemas import rows as schemas


class DialogContextRepository(Repository[DialogContext]):
    """What the assistant remembers."""

    model = DialogContext
    schema = schemas.DIALOG
    target = Target(DialogContext, ("user_id",), Freshness.ALWAYS)

    def of_user(self, user_id: str) -> DialogContext | None:
        """The dialogue with this person."""
        found = self._read(self._by_keys, keys=[user_id])
        return found[0] if found else None
