"""Parsing of responses of YClients: HTTP status and JSON envelope."""

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
_RETRYABLE_STATUSES = (408, 425)  # in addition to all from 500 on
MAX_MESSAGE_CHARS = 200


@dataclass(frozen=True)
class ApiResponse:
    """The rows of one response, and the total number of rows if YClients reports it."""

    rows: list[Any]
    total: int | None = None


def parse_response(status: int, content: bytes, retry_after: float | None = None) -> ApiResponse:
    """Return the rows of a response. Raises TransientError if a retry may help, else YClientsError."""
    if status == 429:
        raise TransientError("YClients rejects the request because of its rate limit (429).", retry_after)
    if status >= 500 or status in _RETRYABLE_STATUSES:
        raise TransientError(f"YClients has an internal error ({status}).", retry_after)
    if 300 <= status < 400:
        raise YClientsError(
            f"YClients redirects to another URL ({status}), to which the tokens are not sent:"
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
        # The response was probably truncated.
        raise TransientError(f"The response of YClients is not JSON ({len(content)} bytes).") from None


def _rows(data: Any) -> list[Any]:
    """Return the rows: a list, or one object. An empty object is an empty list of PHP."""
    if isinstance(data, list):
        return data
    if isinstance(data, Mapping):
        return [data] if data else []
    if data is None:
        return []
    raise YClientsError("The response of YClients contains no rows.")


def _error_message(envelope: Any) -> str:
    """Return the message of YClients. Requests contain no personal data that it could repeat."""
    meta = envelope.get("meta") if isinstance(envelope, Mapping) else None
    message = meta.get("message") if isinstance(meta, Mapping) else None
    text = " ".join(message.split())[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""
    return f": {text}" if text else "."
