"""Conversion of keyword filters, as in `find_many(visit_count__gte=3)`, to SQL conditions."""

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
    """Return the SQL conditions of filters named `column` or `column__operator`; rows must meet all of them.

    Operators: `eq` (the default; None means IS NULL), `ne` (IS DISTINCT FROM, so NULL differs from any
    value), `gt`, `gte`, `lt`, `lte`, `like`, `ilike`, `in` (an iterable; an empty one matches no row) and
    `null` (True means IS NULL, False IS NOT NULL).

    Raises InvalidInputError for an unknown column or operator, or a value that the operator does not accept.
    """
    return [_condition(model, name, value) for name, value in filters.items()]


def ordering(model: type[Base], order_by: str | Sequence[str]) -> list[ColumnElement[Any]]:
    """Return the ORDER BY terms for `column` (ascending) or `-column` (descending), or several of them.

    NULLs come last in both directions; ties are ordered by `id`. Raises InvalidInputError for an unknown
    column.
    """
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
            # One array parameter: a statement can have at most 65,535 parameters.
            return column == any_(literal(list(value), ARRAY(column.type)))
        case "null" if isinstance(value, bool):
            return column.is_(None) if value else column.is_not(None)
    raise InvalidInputError(
        fields={name: f"must have a valid operator ({', '.join(OPERATORS)}) and a value of the right type"}
    )
