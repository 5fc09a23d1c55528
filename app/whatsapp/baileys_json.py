"""JSON of Baileys, in which binary data has one of three forms.

    {"type": "Buffer", "data": "AQI="}      BufferJSON, the canonical form
    {"type": "Buffer", "data": [1, 2]}      Node's toJSON, common in values that were stored as JSONB
    {"0": 1, "1": 2}                        a Uint8Array without a replacer

Baileys does not read the second form, so a session stored in it is broken. This module reads all three
forms and writes the first. It changes nothing else, because values are opaque.
"""

import json
import re
from base64 import b64encode
from typing import Any

from app.errors import InvalidInputError

# Values of Baileys have fewer than twenty levels. Python's recursion limit would stop at an unpredictable
# depth below a thousand.
MAX_DEPTH = 100


def normalise_buffers(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return the value with every buffer in canonical form, or the same object if nothing changes.

    `bytes` are buffers too. Raises InvalidInputError if the value is nested deeper than `depth`.
    """
    if isinstance(value, dict):
        buffer = _to_canonical_buffer(value)
        if buffer is not None:
            return buffer
        return _normalise_items(value, value.items(), dict, depth)
    if isinstance(value, list):
        return _normalise_items(value, enumerate(value), list, depth)
    if isinstance(value, (bytes, bytearray)):
        return _base64(value)
    return value


def encode(value: Any) -> bytes:
    """Return compact JSON with canonical buffers. Raises InvalidInputError for values that JSON lacks."""
    try:
        return _encoder.encode(normalise_buffers(value)).encode()
    except (TypeError, ValueError):
        raise InvalidInputError(
            "A value cannot be stored as JSON: it is NaN, infinite, or of a type that JSON lacks."
        ) from None


def decode(text: bytes) -> Any:
    """Parse JSON and make its buffers canonical. Raises InvalidInputError if the text is not JSON."""
    value = parse_json(text)
    return normalise_buffers(value) if _NON_CANONICAL_BUFFER.search(text) else value


def parse_json(text: bytes) -> Any:
    """Parse JSON without changing buffers. Raises InvalidInputError, which does not quote the text."""
    try:
        return _decoder.decode(text.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise InvalidInputError("The text is not JSON in UTF-8.") from None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


# ASCII with escapes instead of UTF-8, because strings of JavaScript may contain half a surrogate pair.
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_decoder = json.JSONDecoder(parse_constant=_refuse)

# Canonical JSON does not match. Searching the text is faster than traversing the value.
_NON_CANONICAL_BUFFER = re.compile(rb'"data"\s*:\s*\[|"0"\s*:')


def _normalise_items(value: Any, items: Any, copy: Any, depth: int) -> Any:
    """Return a copy of a list or dict with normalised items, or itself if none of them changes."""
    if depth == 0:
        raise _too_deep()
    result = value
    for key, item in items:
        if isinstance(item, str):  # most items are strings
            continue
        new = normalise_buffers(item, depth - 1)
        if new is not item:
            if result is value:
                result = copy(value)
            result[key] = new
    return result


def _to_canonical_buffer(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the canonical form if the object is a buffer in any form, else None."""
    if len(value) == 2 and value.get("type") == "Buffer":
        data = value.get("data")
        if isinstance(data, str):
            return value
        return _from_numbers(data) if isinstance(data, list) else None
    if "0" in value:  # keys 0 to n-1 and nothing else
        numbers = [value.get(str(index)) for index in range(len(value))]
        return _from_numbers(numbers)
    return None


def _from_numbers(numbers: list[Any]) -> dict[str, Any] | None:
    if not set(map(type, numbers)) <= {int}:  # excludes True, which `bytes` would accept as 1
        return None
    try:
        return _base64(bytes(numbers))
    except ValueError:  # not in the range 0 to 255
        return None


def _base64(data: bytes | bytearray) -> dict[str, Any]:
    return {"type": "Buffer", "data": b64encode(data).decode()}


def _too_deep() -> InvalidInputError:
    return InvalidInputError(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
