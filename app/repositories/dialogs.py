"""Dialogue contexts: one for each user that writes to the salon."""

from app.database.bulk_merge import MergeTarget, OverwritePolicy
from app.models import DialogContext
from app.repositories.base import Repository
from app.schemas import rows as schemas


class DialogContextRepository(Repository[DialogContext]):
    """The assistant's dialogue contexts of a salon."""

    model = DialogContext
    schema = schemas.DIALOG
    target = MergeTarget(DialogContext, ("user_id",), OverwritePolicy.ALWAYS)

    def find_by_user(self, user_id: str) -> DialogContext | None:
        """Return the dialogue context of this user, or None."""
        found = self._read(self._by_keys, keys=[user_id])
        return found[0] if found else None
