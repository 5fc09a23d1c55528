"""Validation of rows from files and from YClients: an unreadable optional field never costs the row."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidInputError
from app.schemas.schema import RowSchema, Values


def validate_lenient(
    schema: RowSchema, row: Any, company_id: int, country: str = "RU"
) -> tuple[Values, dict[str, str]]:
    """The validated row, and by field the reasons why something was left out of it.

    An optional field that cannot be read becomes None; where None will not do (a column with a default,
    a nested field) it is left out, then what contains it: the item of a list, at last the whole list.
    Raises InvalidInputError, as `Schema.validate` does, where a required field is at fault.
    """
    reasons: dict[str, str] = {}
    attempts: Counter[str] = Counter()
    while True:
        try:
            return schema.validate(row, company_id, country), reasons
        except InvalidInputError as error:
            if not isinstance(row, Mapping) or any(not _optional(schema, row, f) for f in error.fields):
                raise
            for field, reason in error.fields.items():
                attempts[field] += 1
                # What follows from setting a field aside is not news.
                if not any(
                    field.startswith(f"{known}.") or known.startswith(f"{field}.") for known in reasons
                ):
                    reasons.setdefault(field, reason)
            row = _remove_fields(dict(row), error.fields, attempts)


def _optional(schema: RowSchema, row: Mapping[str, Any], field: str) -> bool:
    name = field.partition(".")[0]
    return name in row and name not in schema.required and name != "company_id"


def _remove_fields(
    row: dict[str, Any], fields: Mapping[str, str], attempts: Mapping[str, int]
) -> dict[str, Any]:
    # Each place once, and from the last item of a list to its first: leaving one out renumbers the next.
    places = {_removal(field.split("."), attempts[field]) for field in fields}
    for path, leave_out in sorted(places, key=_removal_order, reverse=True):
        row = _apply_removal(row, path, leave_out)
    return row


def _removal(path: list[str], attempt: int) -> tuple[tuple[str, ...], bool]:
    """What is to go at this attempt, and whether it is left out; it becomes None otherwise.

    Items of lists go all at the same attempt: the numbers in the reasons stay those of the row given.
    """
    in_list = next((i for i, part in enumerate(path) if part.isdecimal()), None)
    if attempt <= 2:
        return tuple(path), attempt == 2 and not path[-1].isdecimal()
    if attempt == 3 and in_list is not None:
        return tuple(path[: in_list + 1]), True
    return tuple(path[:1]), True


def _removal_order(place: tuple[tuple[str, ...], bool]) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in place[0]]


def _apply_removal(container: Any, path: tuple[str, ...], leave_out: bool) -> Any:
    """A copy of `container` in which what `path` leads to is None, or left out."""
    if not isinstance(container, (dict, list)):
        return None  # pydantic looked into a value of another type
    name: Any = int(path[0]) if isinstance(container, list) else path[0]
    copy = container.copy()
    if isinstance(copy, list) and name >= len(copy):
        return copy  # left out already, with what contained it
    if len(path) > 1:
        copy[name] = _apply_removal(
            copy.get(name) if isinstance(copy, dict) else copy[name], path[1:], leave_out
        )
    elif leave_out and isinstance(copy, dict):
        copy.pop(name, None)
    elif leave_out:
        del copy[name]
    else:
        copy[name] = None
    return copy
