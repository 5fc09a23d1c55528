"""Values as Baileys writes them: JSON in which binary data has one of three writings.

    {"type": "Buffer", "data": "AQI="}      BufferJSON; the one that is written here
    {"type": "Buffer", "data": [1, 2]}      Node's own toJSON, common where values went through JSONB
    {"0": 1, "1": 2}                        a Uint8Array without a replacer

Baileys reads only the first and the last, and a session stored as the second breaks. So all three are
read and the first is written. Nothing else is touched: values are opaque.
"""

import json
import re
from base64 import b64encode
from typing import Any

from app.errors import InvalidInputError

# Baileys nests less than twenty levels. Python itself gives up somewhere below a thousand, in the middle
# of the work and at a depth that depends on the caller.
MAX_DEPTH = 100


def normalise_buffers(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with every buffer in base64; the very same object where there is nothing to change.

    `bytes` count as a buffer too. Raises InvalidInputError where it is nested deeper than `depth`.
    """
    if isinstance(value, dict):
        found = _buffer(value)
        if found is not None:
            return found
        return _changed(value, value.items(), dict, depth)
    if isinstance(value, list):
        return _changed(value, enumerate(value), list, depth)
    if isinstance(value, (bytes, bytearray)):
        return _base64(value)
    return value


def encode(value: Any) -> bytes:
    """Compact JSON, with every buffer in base64. Raises InvalidInputError for what JSON does not have."""
    try:
        return _encoder.encode(normalise_buffers(value)).encode()
    except (TypeError, ValueError):
        raise InvalidInputError("A value is not JSON (NaN, infinity, or no JSON type).") from None


def decode(text: bytes) -> Any:
    """The value of JSON text, with every buffer in base64. Raises InvalidInputError where it is none."""
    value = parse_json(text)
    return normalise_buffers(value) if _NON_CANONICAL_BUFFER.search(text) else value


def parse_json(text: bytes) -> Any:
    """What JSON text says, as it stands. Raises InvalidInputError; never with a part of the text."""
    try:
        return _decoder.decode(text.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise InvalidInputError("This is not JSON in UTF-8.") from None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


# Escapes instead of UTF-8: JavaScript's strings may hold half a surrogate pair.
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_decoder = json.JSONDecoder(parse_constant=_refuse)

# What is stored here has neither; looking for them is quicker than walking through the value.
_NON_CANONICAL_BUFFER = re.compile(rb'"data"\s*:\s*\[|"0"\s*:')


def _changed(value: Any, items: Any, copy: Any, depth: int) -> Any:
    """The list or object with its items made canonical; itself where none of them changed."""
    if depth == 0:
        raise _too_deep()
    result = value
    for key, item in items:
        if isinstance(item, str):  # most of what there is
            continue
        new = normalise_buffers(item, depth - 1)
        if new is not item:
            if result is value:
                result = copy(value)
            result[key] = new
    return result


def _buffer(value: dict[str, Any]) -> dict[str, Any] | None:
    """The canonical writing where the object is a buffer in any writing, or None."""
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
    if not set(map(type, numbers)) <= {int}:  # true is no byte, although Python counts it as 1
        return None
    try:
        return _base64(bytes(numbers))
    except ValueError:  # beyond 0 to 255
        return None


def _base64(data: bytes | bytearray) -> dict[str, Any]:
    return {"type": "Buffer", "data": b64encode(data).decode()}


def _too_deep() -> InvalidInputError:
    return InvalidInputError(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
