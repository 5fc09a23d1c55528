"""The files of an import: all of them looked at before the first row of any is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import InvalidInputError
from app.yclients.importing.detect_entity import detect_entity, staff_id_from_filename
from app.yclients.importing.row_reader import BrokenFileError, RowReader
from app.yclients.mapping.entities import COMPANY, KINDS, SCHEDULES, EntityKind
from app.yclients.mapping.values import integer

SAMPLE_ROWS = 20  # first rows of a file, by which its kind is recognised


@dataclass(frozen=True)
class SourceFile:
    """A file whose kind is known. `has_frontdesk_columns`: its rows have our columns; else they are payloads.

    `staff_id` is whose schedule it holds.
    """

    reader: RowReader
    kind: EntityKind
    has_frontdesk_columns: bool
    staff_id: int | None


def open_source_files(
    paths: Sequence[Path], company_id: int, kind: EntityKind | None, staff_id: int | None
) -> list[SourceFile]:
    """The files in the order of their import, those without any rows left out.

    Raises InvalidInputError that names each file which cannot be used, and why.
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
        return  # an answer without rows
    shape = detect_entity(first, path, kind)
    if shape is None:
        names = ", ".join(known.name for known in KINDS)
        raise BrokenFileError(path, f"what its rows are cannot be told; say it with --kind ({names})")
    objects = [row for row in first if isinstance(row, dict)]
    if shape.kind is COMPANY:
        _refuse_another_company(objects, shape.has_frontdesk_columns, company_id, path)
    whose = staff_id if staff_id is not None else staff_id_from_filename(path)
    if shape.kind is SCHEDULES and whose is None and not any("staff_id" in row for row in objects):
        raise BrokenFileError(
            path, "whose schedule it is cannot be told; say it with --staff, or name it schedule_ID"
        )
    yield SourceFile(reader, shape.kind, shape.has_frontdesk_columns, whose)


def _first_rows(reader: RowReader) -> list[Any]:
    """Raises BrokenFileError where the file breaks off before any row."""
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
            raise BrokenFileError(path, f"is about {name}, not about company {company_id}")
