"""Reader of JSON files value by value, so that the file need not fit in memory.

It uses the decoder of the standard library. A streaming parser with C code was rejected: it crashes the
process on an integer of 5,000 digits, and exhausts the memory on a file of brackets.
"""

import codecs
import json
import re
from typing import Any, BinaryIO

from app.yclients.mapping.values import UNREADABLE

# Rows of YClients are much smaller. Without a limit, a broken file could exhaust the memory.
MAX_VALUE_LENGTH = 8 * 2**20  # characters
BLOCK_BYTES = 2**16

_BLANKS = re.compile(r"[ \t\n\r]*")
_MAX_TOKEN_CHARS = 20  # of a literal or an escape; an error nearer to the end may be caused by a truncation
_MAX_INTEGER_DIGITS = 40
# The text at the position of an error if the file is truncated.
_TRUNCATED_TOKEN = re.compile(r"\s*(t|tr|tru|f|fa|fal|fals|n|nu|nul|[-.eE,]|\\.{0,11})?\s*")
_TRUNCATED = "ends in the middle of its JSON: it is truncated"
_DECODER = json.JSONDecoder(
    parse_constant=lambda _: UNREADABLE
)  # so that NaN, which is not JSON, invalidates only its field
_LONG_INTEGER_DECODER = json.JSONDecoder(
    parse_constant=lambda _: UNREADABLE,
    parse_int=lambda digits: int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else UNREADABLE,
)


class JsonError(Exception):
    """The file is not JSON or is truncated. The message does not quote the file."""


def decode(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the value that begins at `at` and the position after it.

    Raises json.JSONDecodeError, and RecursionError for about a thousand levels of nesting.
    """
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer with more digits than Python converts
        return _LONG_INTEGER_DECODER.raw_decode(text, at)


class JsonStream:
    """JSON from the current position of a file. Invalid UTF-8 becomes lone surrogates, which are rejected."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self.bytes_read = file.tell()

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self.bytes_read - len(self._text[self._at :].encode("utf-8", "surrogateescape"))

    def peek(self) -> str:
        """Return the next non-blank character without consuming it, or an empty string at the end."""
        while True:
            self._at = self._skip_blanks()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on(BLOCK_BYTES):
                return ""

    def expect(self, expected: str) -> str:
        """Consume and return the next non-blank character. Raises JsonError if it is not in `expected`."""
        character = self.peek()
        if not character:
            raise JsonError(_TRUNCATED)
        if character not in expected:
            raise JsonError("is not JSON")
        self._at += 1
        return character

    def value(self) -> Any:
        """Consume and return the next value. Raises JsonError."""
        self.peek()
        size = BLOCK_BYTES
        while True:
            try:
                value, end = decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string")
                if not is_open and error.pos < len(self._text) - _MAX_TOKEN_CHARS:
                    raise JsonError("is not JSON") from None
                if len(self._text) - self._at > MAX_VALUE_LENGTH:
                    raise JsonError(f"contains a value of more than {MAX_VALUE_LENGTH // 2**20} MB") from None
                if not self._read_on(size):
                    is_truncated = is_open or _TRUNCATED_TOKEN.fullmatch(self._text, error.pos)
                    raise JsonError(_TRUNCATED if is_truncated else "is not JSON") from None
                size *= 2  # so that a long value is decoded only a few times
                continue
            except RecursionError:
                raise JsonError("is nested too deeply") from None
            # `12` at the end of the text read so far may be the beginning of `123`.
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._read_on(size):
                continue
            self._at = end
            return value

    def _skip_blanks(self) -> int:
        blanks = _BLANKS.match(self._text, self._at)
        return blanks.end() if blanks else self._at

    def _read_on(self, size: int) -> bool:
        """Read more text; return False at the end of the file."""
        block = self._file.read(size)
        self._text = self._text[self._at :] + self._decoder.decode(block, final=not block)
        self._at = 0
        self.bytes_read += len(block)
        return bool(block)
