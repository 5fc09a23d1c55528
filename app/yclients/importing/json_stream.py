"""JSON pulled value by value out of a file that need not fit in memory.

The standard library's decoder does the work. (A streaming parser would be at hand: its C code crashes the
process on an integer of 5,000 digits, and takes all memory for a file of nothing but brackets.)
"""

import codecs
import json
import re
from typing import Any, BinaryIO

from app.yclients.mapping.values import UNREADABLE

# No row of YClients comes near this; without a limit one broken file could take all memory.
MAX_VALUE_LENGTH = 8 * 2**20  # characters
BLOCK_BYTES = 2**16  # bytes

_BLANKS = re.compile(r"[ \t\n\r]*")
_MAX_TOKEN_CHARS = (
    20  # characters of a literal or an escape; an error nearer to the end may be the end's fault
)
_MAX_INTEGER_DIGITS = 40  # digits
# What an error points at where it is only the end of the file that is wrong.
_TRUNCATED_TOKEN = re.compile(r"\s*(t|tr|tru|f|fa|fal|fals|n|nu|nul|[-.eE,]|\\.{0,11})?\s*")
_TRUNCATED = "ends in the middle of its JSON: it is truncated"
_DECODER = json.JSONDecoder(parse_constant=lambda _: UNREADABLE)  # NaN is no JSON, and costs its field only
_LONG_INTEGER_DECODER = json.JSONDecoder(
    parse_constant=lambda _: UNREADABLE,
    parse_int=lambda digits: int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else UNREADABLE,
)


class JsonError(Exception):
    """The file is no JSON, or not to its end; the message says which, and never quotes it."""


def decode(text: str, at: int = 0) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends.

    Raises json.JSONDecodeError, and RecursionError for one that is nested a thousand deep.
    """
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts
        return _LONG_INTEGER_DECODER.raw_decode(text, at)


class JsonStream:
    """A file of JSON, from where it stands. Bytes that are no UTF-8 become lone surrogates: no valid text."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self.bytes_read = file.tell()

    @property
    def position(self) -> int:
        """The byte that comes next."""
        return self.bytes_read - len(self._text[self._at :].encode("utf-8", "surrogateescape"))

    def peek(self) -> str:
        """The next character that is not blank, left where it is; empty at the end."""
        while True:
            self._at = self._skip_blanks()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on(BLOCK_BYTES):
                return ""

    def expect(self, expected: str) -> str:
        """The next character that is not blank, which must be one of `expected`."""
        found = self.peek()
        if not found:
            raise JsonError(_TRUNCATED)
        if found not in expected:
            raise JsonError("is not JSON")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
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
                    raise JsonError(f"holds a value of more than {MAX_VALUE_LENGTH // 2**20} MB") from None
                if not self._read_on(size):
                    is_cut = is_open or _TRUNCATED_TOKEN.fullmatch(self._text, error.pos)
                    raise JsonError(_TRUNCATED if is_cut else "is not JSON") from None
                size *= 2  # so that a long value is not decoded once for every block
                continue
            except RecursionError:
                raise JsonError("is nested too deeply") from None
            # `12` at the end of what has been read may be the beginning of `123`.
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._read_on(size):
                continue
            self._at = end
            return value

    def _skip_blanks(self) -> int:
        found = _BLANKS.match(self._text, self._at)
        return found.end() if found else self._at

    def _read_on(self, size: int) -> bool:
        """Read more; False at the end of the file."""
        block = self._file.read(size)
        self._text = self._text[self._at :] + self._decoder.decode(block, final=not block)
        self._at = 0
        self.bytes_read += len(block)
        return bool(block)
