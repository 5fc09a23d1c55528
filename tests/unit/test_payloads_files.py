"""Files are read row by row, whatever they are, and broken ones say where and why."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.yclients.importing.json_stream import BLOCK_BYTES, MAX_VALUE_LENGTH
from app.yclients.importing.row_reader import BrokenFileError, InvalidLine, RowReader
from app.yclients.mapping.values import UNREADABLE

ROWS = [{"id": 1, "name": "Анна"}, {"id": 2, "name": "Ира", "tags": [[1, 2.5], {"a": None}]}]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: bytes | str, name: str = "rows.json") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def broken(path: Path) -> tuple[list[Any], BrokenFileError]:
    """The rows before the file broke off, and what it said."""
    rows: list[Any] = []
    with pytest.raises(BrokenFileError) as caught:
        rows.extend(RowReader(path))
    return rows, caught.value


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"success": True, "data": ROWS, "meta": {"total_count": 2}}),
        json.dumps({"meta": {"data": [7]}, "data": ROWS, "success": True}, indent=2),
        json.dumps({"data": ROWS}, ensure_ascii=False),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4),
        "\ufeff" + json.dumps(ROWS),
        "\n\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n",
        "\r\n".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n".join(json.dumps({"success": True, "data": [row]}) for row in ROWS),
    ],
    ids=[
        "envelope",
        "data-late",
        "no-success",
        "list",
        "indented",
        "bom",
        "lines",
        "crlf",
        "objects",
        "pages",
    ],
)
def test_rows_are_found_in_every_file_format(write: Any, content: str) -> None:
    assert list(RowReader(write(content))) == ROWS


@pytest.mark.parametrize(
    "content", ['{"success": true, "data": {"id": 1}}', '{"id": 1}', '{\n "id": 1\n}', '[{"id": 1}]']
)
def test_a_single_object_is_one_row(write: Any, content: str) -> None:
    assert list(RowReader(write(content))) == [{"id": 1}]


@pytest.mark.parametrize("content", ['{"success": true, "data": []}', '{"success": 1, "data": null}', "[]"])
def test_a_response_without_rows_is_not_an_error(write: Any, content: str) -> None:
    assert list(RowReader(write(content))) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"hello", "is not JSON"),
        (bytes(range(256)) * 500, "is not JSON"),
        ('[{"id": 1}]'.encode("utf-16"), "is not JSON"),
        (b"[{'id': 1}]", "is not JSON"),
        (b'{"a" 1}', "is not JSON"),
        (b'{"id": 1, }', "is not JSON"),
        (b"{7: 1}", "is not JSON"),
        (b'[{"id": 1 "name": 2}]', "is not JSON"),
        (b"123", "not a row"),
        (b'{"success": true, "data": "abc"}', "no rows in its data"),
        (b'{"success": true, "data": [{"id": 1', "truncated"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"data": [' + b'{"a":' * 100_000, "nested too deeply"),
        (b'[{"comment": "' + b"x" * (MAX_VALUE_LENGTH + 200_000), "a value of more than 8 MB"),
    ],
)
def test_a_file_without_rows_is_an_error_with_a_reason(write: Any, content: bytes, reason: str) -> None:
    rows, error = broken(write(content))
    assert rows == []
    assert reason in error.message
    assert "\n" not in error.message


def test_a_refused_request_is_reported_with_the_message_of_yclients(write: Any) -> None:
    refusal = {"success": False, "data": None, "meta": {"message": "Не авторизован\x1b[31m\n" + "!" * 999}}
    _, error = broken(write(json.dumps(refusal)))
    assert "is an error response of YClients: Не авторизован [31m !!" in error.message
    assert len(error.message) < 400


def test_the_rows_before_a_truncation_are_read_and_its_position_is_reported(write: Any) -> None:
    content = json.dumps({"success": True, "data": [{"id": n, "name": "Анна"} for n in range(5000)]})
    rows, error = broken(write(content[: len(content) // 2]))
    assert rows == [{"id": n, "name": "Анна"} for n in range(len(rows))]
    assert 2000 < len(rows) < 3000
    assert f"after {len(rows):,} rows" in error.reason
    assert "Анна" not in error.reason


def test_invalid_text_in_the_middle_ends_the_file_and_is_not_quoted(write: Any) -> None:
    rows, error = broken(write(json.dumps(ROWS)[:-1] + ', {"phone": "+79686484488"} oops]'))
    assert rows == [*ROWS, {"phone": "+79686484488"}]
    assert "7968" not in error.message


def test_a_value_outside_of_json_drops_only_its_field(write: Any) -> None:
    content = (
        '[{"a": NaN, "b": -Infinity, "c": ' + "9" * 5000 + ', "d": 1300.10, "e": 123, "f": 1E+999999999}]'
    )
    (row,) = RowReader(write(content))
    assert row == {"a": UNREADABLE, "b": UNREADABLE, "c": UNREADABLE, "d": 1300.1, "e": 123, "f": math.inf}


def test_bytes_that_are_not_utf_8_drop_only_their_field(write: Any) -> None:
    rows = list(RowReader(write('[{"id": 1, "name": "Анна"}, {"id": 2}]'.encode("cp1251"))))
    assert [row["id"] for row in rows] == [1, 2]


@pytest.mark.parametrize("size", range(60_000, 70_000, 1_111))
def test_a_value_can_span_two_reads(write: Any, size: int) -> None:
    rows = [{"filler": "ж" * (size // 2)}, 12345, {"id": 12345, "name": "Анна\u2028\\"}, "текст", [True], 7]
    assert list(RowReader(write(json.dumps(rows, ensure_ascii=False, indent=2)))) == rows
    assert list(RowReader(write(json.dumps(rows)))) == rows


def test_only_the_invalid_line_is_dropped(write: Any) -> None:
    deep = "[" * 100_000
    content = b'{"id": 1}\nnot json\n{"id": 1} {}\n\xff\n' + deep.encode() + b'\n{"id": 2}'
    rows = list(RowReader(write(content)))
    assert [row if isinstance(row, dict) else row.reason for row in rows] == [
        {"id": 1},
        *["is not JSON"] * 4,
        {"id": 2},
    ]


def test_the_first_line_can_be_invalid(write: Any) -> None:
    rows = list(RowReader(write('oops\n{"id": 2}\n', "rows.ndjson")))
    assert isinstance(rows[0], InvalidLine)
    assert rows[1] == {"id": 2}


def test_a_path_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "is not a file"),
        (tmp_path / "missing.json", "does not exist"),
        (tmp_path / ("x" * 5000), "cannot be opened"),
        (tmp_path / "a\0b", "a b: does not exist"),
    ):
        with pytest.raises(BrokenFileError, match=reason):
            RowReader(path)


def test_the_read_position_is_available(write: Any) -> None:
    reader = RowReader(write(json.dumps([{"id": n} for n in range(50_000)])))
    positions = [reader.bytes_read for _ in reader]
    assert positions == sorted(positions)
    assert 0 < positions[0] < positions[-1] <= reader.size == reader.bytes_read


@given(
    rows=st.lists(
        st.dictionaries(
            st.text(),
            st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        )
    ),
    filler=st.integers(BLOCK_BYTES - 40, BLOCK_BYTES + 40),
    cut=st.integers(0, 200),
)
def test_a_truncation_loses_only_the_rows_after_it(
    write: Any, rows: list[Any], filler: int, cut: int
) -> None:
    rows = [{"filler": "x" * filler}, *rows]
    content = json.dumps({"success": True, "data": rows}).encode()
    kept = content[: len(content) - cut] or b"["
    if cut == 0:
        assert list(RowReader(write(kept))) == rows
    else:
        read, error = broken(write(kept))
        assert read == rows[: len(read)]
        assert "truncated" in error.reason
