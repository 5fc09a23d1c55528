"""Files of rows, read as a stream: what the API answered, a bare list, or one JSON object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from app.errors import InvalidInputError
from app.yclients.values import boolean

# No row of YClients comes near these; without them one broken file could take all memory.
MAX_ROW = 8 * 2**20  # bytes
MAX_DEPTH = 50
MAX_MESSAGE = 200
_BLOCK = 2**16
_BOM = b"\xef\xbb\xbf"


class BrokenFileError(InvalidInputError):
    """A file that cannot be read, or not to its end: `reason` says why; the rows before that are good."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class NotARow:
    """A line that is no JSON; the rows around it are not concerned."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class RowReader:
    """The rows of one file, in their order; `bytes_read` of `size` bytes so far."""

    def __init__(self, path: Path) -> None:
        """Raises BrokenFileError where there is no such file, or nothing in it."""
        self.path = path
        self.bytes_read = 0
        self.rows_read = 0
        try:
            if not path.is_file():
                raise BrokenFileError(path, "is no file" if path.exists() else "does not exist")
            self.size = path.stat().st_size
        except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
            raise BrokenFileError(path, f"cannot be opened ({_cause(error)})") from None

    def __iter__(self) -> Iterator[Any]:
        """Raises BrokenFileError where the file stops being what it was."""
        self.bytes_read = self.rows_read = 0
        try:
            with self.path.open("rb") as file:
                head = file.read(len(_BOM))
                file.seek(len(_BOM) if head == _BOM else 0)
                for row in self._lines(file) if self._has_a_row_a_line(file) else self._document(file):
                    yield row
                    self.rows_read += 1
        except OSError as error:
            raise self._broken(f"cannot be read ({_cause(error)})") from None
        self.bytes_read = self.size

    def _has_a_row_a_line(self, file: BinaryIO) -> bool:
        """Told by the first line: an object of its own that is not the API's envelope."""
        start = file.tell()
        first = b""
        while not first.strip():
            first = file.readline(_BLOCK)
            if not first:
                raise self._broken("is empty")
        file.seek(start)
        try:
            value = json.loads(first)
        except (ValueError, RecursionError):
            return self.path.suffix in (".ndjson", ".jsonl")
        return isinstance(value, dict) and {"success", "data"}.isdisjoint(value)

    def _lines(self, file: BinaryIO) -> Iterator[Any]:
        while line := file.readline(MAX_ROW + 1):
            if len(line) > MAX_ROW:
                raise self._broken(f"holds a line of more than {MAX_ROW // 2**20} MB")
            self.bytes_read = file.tell()
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of 5,000 digits, too deep
                    yield NotARow("is not JSON")

    def _document(self, file: BinaryIO) -> Iterator[Any]:
        source = _Limited(file, self)
        try:
            yield from self._rows_of(ijson.basic_parse(source, multiple_values=True, buf_size=_BLOCK), source)
        except ijson.IncompleteJSONError as error:
            # Its text quotes the data, so only its kind is told.
            if "premature EOF" in str(error):
                raise self._broken("ends in the middle of its JSON; it is truncated") from None
            raise self._broken("is not JSON from here on" if self.rows_read else "is not JSON") from None
        except (ijson.JSONError, ValueError, SystemError):
            # The parser's C code leaves a number of more than 4,300 digits as a SystemError.
            raise self._broken("holds a value that cannot be read") from None

    def _rows_of(self, events: Iterator[tuple[str, Any]], source: "_Limited") -> Iterator[Any]:
        """Build values from the parser's events; rows are handed out as they end, and not kept."""
        around: list[
            tuple[Any, str]
        ] = []  # the values that are open around this one, with their keys in them
        inside: Any = None  # the object or list that is being built
        rows: Any = None  # the list whose items are rows: the one at the top, or `data` of the envelope
        key = ""
        for event, value in events:
            if event == "map_key":
                key = value
                continue
            if event in ("start_map", "start_array"):
                if len(around) == MAX_DEPTH:
                    raise self._broken("is nested too deeply")
                around.append((inside, key))
                inside = {} if event == "start_map" else []
                if type(inside) is list and (len(around) == 1 or _is_data(around)):
                    rows = inside
                continue
            if event in ("end_map", "end_array"):
                value = inside
                inside, key = around.pop()
            elif event == "number" and type(value) is not int:
                value = float(value)  # a Decimal of JSON may have billions of digits: 1E+999999999
            if inside is None:
                yield from self._rows_of_top(event, value)
            elif type(inside) is dict:
                inside[key] = value
            elif inside is rows:
                source.row_ends()
                yield value
            else:
                inside.append(value)

    def _rows_of_top(self, event: str, value: Any) -> Iterator[Any]:
        """What is left when a value at the top has ended: an envelope, or an object that is the only row."""
        if event == "end_array":
            return
        if not isinstance(value, dict):
            raise self._broken("holds a bare value, and no rows")
        if boolean(value.get("success")) is False:
            raise self._broken(f"YClients answered with an error: {_message(value)}")
        if isinstance(value.get("data"), dict):
            yield value["data"]
        elif not isinstance(value.get("data"), (list, type(None))):  # rows of a list were handed out already
            raise self._broken("holds no rows in its data")
        elif not ("success" in value or "data" in value):
            yield value

    def _broken(self, reason: str) -> BrokenFileError:
        if self.rows_read or self.bytes_read:
            reason += f" (after {self.rows_read} rows, near byte {self.bytes_read} of {self.size})"
        return BrokenFileError(self.path, reason)


class _Limited:
    """Counts what the parser reads, and stops it where one row takes too much."""

    def __init__(self, file: BinaryIO, reader: RowReader) -> None:
        self._file = file
        self._reader = reader
        self._row_began = 0

    def read(self, size: int = -1) -> bytes:
        if self._reader.bytes_read - self._row_began > MAX_ROW:
            raise self._reader._broken(f"holds a row of more than {MAX_ROW // 2**20} MB")
        block = self._file.read(size)
        self._reader.bytes_read = self._file.tell()
        return block

    def row_ends(self) -> None:
        self._row_began = self._reader.bytes_read


def _is_data(around: list[tuple[Any, str]]) -> bool:
    """Whether the value that has just begun is the `data` of an envelope at the top."""
    return len(around) == 2 and around[1][1] == "data" and type(around[1][0]) is dict


def _message(envelope: dict[str, Any]) -> str:
    meta = envelope.get("meta")
    message = meta.get("message") if isinstance(meta, dict) else envelope.get("message")
    text = message if isinstance(message, str) and message.strip() else "no reason given"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_MESSAGE]


def _cause(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "a bad name"
