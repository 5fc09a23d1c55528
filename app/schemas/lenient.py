"""Lenient validation for rows from files and from YClients: invalid optional fields are dropped."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidInputError
from app.schemas.schema import RowSchema, Values


def validate_lenient(
    schema: RowSchema, row: Any, company_id: int, country: str = "RU"
) -> tuple[Values, dict[str, str]]:
    """Return the validated row, and the reasons of dropped fields by field.

    An invalid optional field becomes None. If None is invalid too (a column with a default, a nested field),
    the field is removed; if that is not enough, the list item that contains it, and finally the whole list.
    Raises InvalidInputError, like `RowSchema.validate`, if a required field is invalid.
    """
    reasons: dict[str, str] = {}
    attempts: Counter[str] = Counter()
    while True:
        try:
            return schema.validate(row, company_id, country), reasons
        except InvalidInputError as error:
            if not isinstance(row, Mapping) or any(not _is_optional(schema, row, f) for f in error.fields):
                raise
            for field, reason in error.fields.items():
                attempts[field] += 1
                # Do not report errors caused only by an earlier removal.
                if not any(
                    field.startswith(f"{known}.") or known.startswith(f"{field}.") for known in reasons
                ):
                    reasons.setdefault(field, reason)
            row = _remove_fields(dict(row), error.fields, attempts)


def _is_optional(schema: RowSchema, row: Mapping[str, Any], field: str) -> bool:
    name = field.partition(".")[0]
    return name in row and name not in schema.required and name != "company_id"


def _remove_fields(
    row: dict[str, Any], fields: Mapping[str, str], attempts: Mapping[str, int]
) -> dict[str, Any]:
    # Apply each removal once, from the highest list index down, because removal shifts later indexes.
    removals = {_removal(field.split("."), attempts[field]) for field in fields}
    for path, is_removed in sorted(removals, key=_removal_order, reverse=True):
        row = _apply_removal(row, path, is_removed)
    return row


def _removal(path: list[str], attempt: int) -> tuple[tuple[str, ...], bool]:
    """Return the path to change at this attempt, and whether it is removed (True) or set to None (False).

    List items are removed only at the third attempt, so that indexes in the reasons match the given row.
    """
    in_list = next((i for i, part in enumerate(path) if part.isdecimal()), None)
    if attempt <= 2:
        return tuple(path), attempt == 2 and not path[-1].isdecimal()
    if attempt == 3 and in_list is not None:
        return tuple(path[: in_list + 1]), True
    return tuple(path[:1]), True


def _removal_order(removal: tuple[tuple[str, ...], bool]) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in removal[0]]


def _apply_removal(container: Any, path: tuple[str, ...], is_removed: bool) -> Any:
    """Return a copy of `container` in which the value at `path` is removed or None."""
    if not isinstance(container, (dict, list)):
        return None  # pydantic has reported a field of a value that has another type
    name: Any = int(path[0]) if isinstance(container, list) else path[0]
    copy = container.copy()
    if isinstance(copy, list) and name >= len(copy):
        return copy  # already removed together with its container
    if len(path) > 1:
        copy[name] = _apply_removal(
            copy.get(name) if isinstance(copy, dict) else copy[name], path[1:], is_removed
        )
    elif is_removed and isinstance(copy, dict):
        copy.pop(name, None)
    elif is_removed:
        del copy[name]
    else:
        copy[name] = None
    return copy
