"""YClients' envelope: what a status and a body mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.yclients.errors import (
    ForbiddenError,
    PaymentRequiredError,
    RefusedError,
    TransientError,
    UnauthorizedError,
    YClientsError,
    YClientsNotFoundError,
)
from app.yclients.mapping.values import boolean, integer

_ERRORS_BY_STATUS = {
    401: UnauthorizedError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: YClientsNotFoundError,
}
_RETRYABLE_STATUSES = (408, 425)  # beside everything from 500 on
MAX_MESSAGE_CHARS = 200


@dataclass(frozen=True)
class ApiResponse:
    """The rows of one answer, and how many there are in all where YClients says so."""

    rows: list[Any]
    total: int | None = None


def parse_response(status: int, content: bytes, retry_after: float | None = None) -> ApiResponse:
    """Open the envelope. Raises TransientError where another attempt may help, else YClientsError."""
    if status == 429:
        raise TransientError("YClients says that requests come too fast (429).", retry_after)
    if status >= 500 or status in _RETRYABLE_STATUSES:
        raise TransientError(f"YClients is out of order ({status}).", retry_after)
    if 300 <= status < 400:
        raise YClientsError(
            f"YClients sends us to another address ({status}), and the tokens go to no other:"
            " check YCLIENTS_BASE_URL."
        )
    if status in _ERRORS_BY_STATUS:
        raise _ERRORS_BY_STATUS[status]
    envelope = _decode(content) if status < 400 or content[:1] == b"{" else None
    if status >= 400 or not isinstance(envelope, Mapping) or boolean(envelope.get("success")) is not True:
        raise RefusedError(f"YClients refuses the request ({status}){_error_message(envelope)}")
    meta = envelope.get("meta")
    total = integer(meta.get("total_count")) if isinstance(meta, Mapping) else None
    return ApiResponse(_rows(envelope.get("data")), total if isinstance(total, int) and total >= 0 else None)


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        # Broken off on the way, most likely.
        raise TransientError(f"YClients' answer is not JSON ({len(content)} bytes).") from None


def _rows(data: Any) -> list[Any]:
    """A list as it is, an object as the one row that it is; PHP writes an empty list as `{}` too."""
    if isinstance(data, list):
        return data
    if isinstance(data, Mapping):
        return [data] if data else []
    if data is None:
        return []
    raise YClientsError("YClients' answer has no rows where they should be.")


def _error_message(envelope: Any) -> str:
    """YClients' own message; our requests hold no person's data that it could repeat."""
    meta = envelope.get("meta") if isinstance(envelope, Mapping) else None
    message = meta.get("message") if isinstance(meta, Mapping) else None
    words = " ".join(message.split())[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""
    return f": {words}" if words else "."
