"""Files of an import. All files are checked before the first row is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import InvalidInputError
from app.yclients.importing.detect_entity import detect_entity, staff_id_from_filename
from app.yclients.importing.row_reader import BrokenFileError, RowReader
from app.yclients.mapping.entities import COMPANY, KINDS, SCHEDULES, EntityKind
from app.yclients.mapping.values import integer

SAMPLE_ROWS = 20  # number of rows that are read to detect the kind of a file


@dataclass(frozen=True)
class SourceFile:
    """A file whose kind is known.

    `has_frontdesk_columns` is False if its rows are payloads of YClients. `staff_id` is the member of staff
    of a schedule.
    """

    reader: RowReader
    kind: EntityKind
    has_frontdesk_columns: bool
    staff_id: int | None


def open_source_files(
    paths: Sequence[Path], company_id: int, kind: EntityKind | None, staff_id: int | None
) -> list[SourceFile]:
    """Return the files that have rows, in the order of their import.

    Raises InvalidInputError with the name of each unusable file and the reason.
    """
    sources: list[SourceFile] = []
    problems: list[str] = []
    for path in paths:
        try:
            sources += _open(path, company_id, kind, staff_id)
        except BrokenFileError as error:
            problems.append(error.message)
    if problems:
        raise InvalidInputError("; ".join(problems) + ". Nothing was imported.")
    return sorted(sources, key=lambda source: KINDS.index(source.kind))


def _open(path: Path, company_id: int, kind: EntityKind | None, staff_id: int | None) -> Iterator[SourceFile]:
    reader = RowReader(path)
    first = _first_rows(reader)
    if not first:
        return  # a response without rows
    detected = detect_entity(first, path, kind)
    if detected is None:
        names = ", ".join(known.name for known in KINDS)
        raise BrokenFileError(path, f"the kind of its rows is unclear; name it with --kind ({names})")
    objects = [row for row in first if isinstance(row, dict)]
    if detected.kind is COMPANY:
        _refuse_another_company(objects, detected.has_frontdesk_columns, company_id, path)
    staff = staff_id if staff_id is not None else staff_id_from_filename(path)
    if detected.kind is SCHEDULES and staff is None and not any("staff_id" in row for row in objects):
        raise BrokenFileError(
            path, "the schedule names no member of staff; use --staff, or name the file schedule_ID"
        )
    yield SourceFile(reader, detected.kind, detected.has_frontdesk_columns, staff)


def _first_rows(reader: RowReader) -> list[Any]:
    """Return up to SAMPLE_ROWS rows. Raises BrokenFileError if an error occurs before the first row."""
    first: list[Any] = []
    try:
        for row in reader:
            first.append(row)
            if len(first) == SAMPLE_ROWS:
                break
    except BrokenFileError:
        if not first:
            raise
    return first


def _refuse_another_company(
    objects: list[dict[str, Any]], has_frontdesk_columns: bool, company_id: int, path: Path
) -> None:
    for row in objects:
        given = integer(row.get("company_id", company_id) if has_frontdesk_columns else row.get("id"))
        if given != company_id:
            name = f"company {given}" if isinstance(given, int) else "a company without a usable id"
            raise BrokenFileError(path, f"is a payload of {name}, not of company {company_id}")
