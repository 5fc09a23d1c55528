"""Operations on dialogue contexts, the assistant's state of each conversation."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import Operations, validate_key_text
from app.errors import InvalidInputError
from app.models import DialogContext


class DialogOperations(Operations):
    """Operations on dialogue contexts."""

    @operation(DialogContext)
    def get_dialog_context(self, user_id: str) -> DialogContext | None:
        """Return the dialogue context of `user_id`, or None."""
        return self._read_only_repositories.dialog_contexts.find_by_user(
            validate_key_text("user_id", user_id)
        )

    @operation(DialogContext)
    def upsert_dialog_context(self, user_id: str, data: Mapping[str, Any]) -> DialogContext:
        """Insert or update a dialogue context and return it.

        `data` contains `stage`, `context` (JSON) and `last_activity_at` (default: the current time).
        """
        if not isinstance(data, Mapping):
            raise InvalidInputError(fields={"data": "must be a mapping"})
        row = {
            "last_activity_at": datetime.now(UTC),
            **data,
            "user_id": validate_key_text("user_id", user_id),
        }
        return self._transact(lambda uow: uow.dialog_contexts.upsert(row))
