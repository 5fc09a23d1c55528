"""Stream of the rows of a file: an API response, a list, or one JSON object per line."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import InvalidInputError
from app.text import to_printable_line
from app.yclients.importing.json_stream import BLOCK_BYTES, MAX_VALUE_LENGTH, JsonError, JsonStream, decode
from app.yclients.mapping.values import boolean

_BOM = b"\xef\xbb\xbf"
_MAX_MESSAGE_CHARS = 200


class BrokenFileError(InvalidInputError):
    """A file cannot be read completely, for the given `reason`. Rows before the error are valid."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{to_printable_line(str(path))}: {reason}")


class InvalidLine:
    """Placeholder for a line that is not JSON. Other lines are not affected."""

    reason = "is not JSON"


class RowReader:
    """The rows of one file in their order. `bytes_read` of `size` bytes have been read."""

    def __init__(self, path: Path) -> None:
        """Raises BrokenFileError if the file is missing or cannot be opened."""
        self.path = path
        self.bytes_read = 0
        self._rows_read = 0
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: the name contains NUL
            raise BrokenFileError(path, "does not exist") from None
        except OSError as error:  # the name is too long, or the folder is not accessible
            raise BrokenFileError(path, f"cannot be opened ({error.strerror})") from None
        if not stat.S_ISREG(status.st_mode):
            raise BrokenFileError(path, "is not a file")
        self.size = status.st_size

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows. Raises BrokenFileError with the position of an error."""
        self.bytes_read = self._rows_read = 0
        try:
            with self.path.open("rb") as file:
                file.seek(len(_BOM) if file.read(len(_BOM)) == _BOM else 0)
                rows = self._lines(file) if self._is_ndjson(file) else self._document(file)
                for row in rows:
                    yield row
                    self._rows_read += 1
        except OSError as error:
            raise BrokenFileError(self.path, f"cannot be read ({error.strerror})") from None
        self.bytes_read = self.size

    def _is_ndjson(self, file: BinaryIO) -> bool:
        """Return True if the first line is a JSON object that is not an envelope of the API."""
        start = file.tell()
        first = b""
        while not first.strip():
            first = file.readline(BLOCK_BYTES)
            if not first:
                raise BrokenFileError(self.path, "is empty")
        file.seek(start)
        value = _decode_line(first)
        if isinstance(value, InvalidLine):
            return self.path.suffix in (".ndjson", ".jsonl")
        return isinstance(value, dict) and {"success", "data"}.isdisjoint(value)

    def _lines(self, file: BinaryIO) -> Iterator[Any]:
        while line := file.readline(MAX_VALUE_LENGTH + 1):
            if len(line) > MAX_VALUE_LENGTH:
                raise self._broken(
                    f"contains a line of more than {MAX_VALUE_LENGTH // 2**20} MB", self.bytes_read
                )
            self.bytes_read = file.tell()
            if line.strip():
                yield _decode_line(line)

    def _document(self, file: BinaryIO) -> Iterator[Any]:
        stream = JsonStream(file)
        try:
            for row in _rows(stream):
                self.bytes_read = stream.bytes_read
                yield row
        except JsonError as error:
            raise self._broken(str(error), stream.position) from None

    def _broken(self, reason: str, position: int) -> BrokenFileError:
        location = f"after {self._rows_read:,} rows, at byte {position:,} of {self.size:,}"
        return BrokenFileError(self.path, f"{reason} ({location})")


def _rows(stream: JsonStream) -> Iterator[Any]:
    """Yield the rows of all top-level values. A file may contain several responses, one after another."""
    while begin := stream.peek():
        if begin == "{":
            yield from _rows_of_object(stream)
        elif begin == "[":
            yield from _rows_of_list(stream)
        else:
            stream.value()
            raise JsonError("contains a value that is not a row")


def _rows_of_object(stream: JsonStream) -> Iterator[Any]:
    """Yield the rows of an envelope while reading it. An object that is not an envelope is a row itself."""
    envelope: dict[str, Any] = {}
    has_data = False
    begin = stream.expect("{")
    if stream.peek() == "}":
        begin = stream.expect("}")
    while begin != "}":
        if stream.peek() != '"':
            raise JsonError("is not JSON")
        key = stream.value()
        stream.expect(":")
        if key == "data" and stream.peek() == "[":
            has_data = True
            yield from _rows_of_list(stream)
        else:
            envelope[key] = stream.value()
        begin = stream.expect(",}")
    if boolean(envelope.get("success")) is False:
        raise JsonError(f"is an error response of YClients: {_message(envelope)}")
    data = envelope.get("data")
    if isinstance(data, dict):
        yield data
    elif data is not None:
        raise JsonError("contains no rows in its data")
    elif not has_data and {"success", "data"}.isdisjoint(envelope):
        yield envelope


def _rows_of_list(stream: JsonStream) -> Iterator[Any]:
    stream.expect("[")
    if stream.peek() == "]":
        stream.expect("]")
        return
    yield stream.value()
    while stream.expect(",]") == ",":
        yield stream.value()


def _decode_line(line: bytes) -> Any:
    text = line.decode("utf-8", "surrogateescape").strip()
    try:
        value, end = decode(text)
    except (json.JSONDecodeError, RecursionError):
        return InvalidLine()
    return value if end == len(text) else InvalidLine()


def _message(envelope: dict[str, Any]) -> str:
    meta = envelope.get("meta")
    message = meta.get("message") if isinstance(meta, dict) else envelope.get("message")
    text = message if isinstance(message, str) and message.strip() else "no reason given"
    return to_printable_line(text)[:_MAX_MESSAGE_CHARS]
