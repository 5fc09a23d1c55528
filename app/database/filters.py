"""`find_many(visit_count__gte=3)`: keyword filters to SQL conditions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, String, any_, literal

from app.errors import InvalidInputError
from app.models import Base

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": gt,
    "gte": ge,
    "lt": lt,
    "lte": le,
}
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "like", "ilike", "in", "null")


def conditions(model: type[Base], filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Conditions for filters named `column` or `column__operator`; all of them must hold.

    `ne` is true for NULL beside a value (IS DISTINCT FROM); `in` takes an iterable, and an empty one
    matches nothing; `null=True` means IS NULL. Raises InvalidInputError on an unknown name.
    """
    return [_condition(model, name, value) for name, value in filters.items()]


def ordering(model: type[Base], order_by: str | Sequence[str]) -> list[ColumnElement[Any]]:
    """Ordering by `column` or `-column` (descending); NULLs last either way; `id` breaks ties."""
    names = [order_by] if isinstance(order_by, str) else list(order_by)
    terms: list[ColumnElement[Any]] = []
    for name in [*names, "id"]:
        column = _column(model, name.removeprefix("-"))
        terms.append((column.desc() if name.startswith("-") else column.asc()).nulls_last())
    return terms


def _column(model: type[Base], name: str) -> ColumnElement[Any]:
    if name not in model.__table__.columns:
        raise InvalidInputError(fields={name: "is not a column"})
    return model.__table__.columns[name]


def _condition(model: type[Base], name: str, value: Any) -> ColumnElement[bool]:
    column_name, _, operator = name.partition("__")
    column = _column(model, column_name)
    match operator or "eq":
        case "eq":
            return column.is_(None) if value is None else column == value
        case "ne":
            return column.is_distinct_from(value)
        case "gt" | "gte" | "lt" | "lte" if value is not None:
            comparison: ColumnElement[bool] = _COMPARISONS[operator](column, literal(value, column.type))
            return comparison
        case "like" | "ilike" if isinstance(value, str) and isinstance(column.type, String):
            return column.like(value) if operator == "like" else column.ilike(value)
        case "in" if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
            # One array: a statement has room for 65,535 parameters only.
            return column == any_(literal(list(value), ARRAY(column.type)))
        case "null" if isinstance(value, bool):
            return column.is_(None) if value else column.is_not(None)
    raise InvalidInputError(fields={name: f"needs one of {', '.join(OPERATORS)} and a value that fits it"})
