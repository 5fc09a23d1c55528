"""Validation of rows: which are good, and which field of the others is wrong, and why."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidInputError

# pydantic's own wording speaks to programmers of Python; these speak of the data.
_REASONS = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "string_pattern_mismatch": "contains characters that are not allowed here (NUL, for one)",
    "string_unicode": "is not valid Unicode",
    "timezone_aware": "needs a time zone (an aware datetime)",
    "dict_type": "is not an object with fields",
    "list_type": "is not a list",
    "string_type": "is not text",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "decimal_type": "is not a number",
    "decimal_parsing": "is not a number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "date_type": "is not a date",
    "date_parsing": "is not a date",
    "date_from_datetime_parsing": "is not a date",
    "datetime_type": "is not a time",
    "datetime_parsing": "is not a time",
    "datetime_from_date_parsing": "is not a time",
}
MAX_REASON_CHARS = 200

Values = dict[str, Any]
RowKey = tuple[int | str | date, ...]


@dataclass(frozen=True)
class RejectedRow:
    """A row that was set aside. `position` counts from 0; `key` is what it gave as its key, if readable."""

    position: int
    key: RowKey | None
    errors: Mapping[str, str]


class RowSchema:
    """One kind of row: its fields, its key, and a check of the row as a whole."""

    def __init__(
        self,
        row_type: Any,
        key: tuple[str, ...] = (),
        check: Callable[[Values], Mapping[str, str]] | None = None,
    ) -> None:
        """`row_type` is a TypedDict that forbids extra keys; `check` names what is wrong between fields."""
        self._adapter: TypeAdapter[Values] = TypeAdapter(row_type)
        self._check = check
        self.key = key
        self.required: frozenset[str] = row_type.__required_keys__
        self.fields: frozenset[str] = self.required | row_type.__optional_keys__

    def validate(self, row: Any, company_id: int, country: str = "RU") -> Values:
        """The row with its values converted (ids to int, phones to E.164, times to UTC).

        A `company_id` in the row must be the given one. Raises InvalidInputError with reasons by field.
        """
        if isinstance(row, Mapping) and "company_id" in row:
            if row["company_id"] != company_id:
                raise InvalidInputError(fields={"company_id": "names another company"})
            row = {name: value for name, value in row.items() if name != "company_id"}
        try:
            values = self._adapter.validate_python(row, context={"country": country})
        except ValidationError as error:
            raise InvalidInputError(fields=reasons_by_field(error)) from None
        if self._check is not None and (wrong := self._check(values)):
            raise InvalidInputError(fields=wrong)
        return values

    def validate_all(self, rows: Iterable[Any], company_id: int, country: str = "RU") -> "Batch":
        """Tell the good rows, in their order, from the rejected ones.

        Raises InvalidInputError where `rows` is no iterable of rows at all.
        """
        if isinstance(rows, (Mapping, str, bytes)) or not isinstance(rows, Iterable):
            raise InvalidInputError(fields={"rows": "must be an iterable of mappings"})
        batch = Batch(self, company_id)
        for position, row in enumerate(rows):
            try:
                batch.add(position, self.validate(row, company_id, country))
            except InvalidInputError as error:
                batch.rejected.append(RejectedRow(position, self.readable_key(row), error.fields))
        return batch

    def readable_key(self, row: Any) -> RowKey | None:
        """The row's key where it has one that is fit to be shown."""
        if not isinstance(row, Mapping):
            return None
        key = [row.get(name) for name in self.key]
        readable = tuple(part for part in key if isinstance(part, (int, str, date)) and len(str(part)) <= 64)
        return readable if len(readable) == len(key) else None


@dataclass
class Batch:
    """Rows that `schema` has checked for one company, with the positions that they were given at."""

    schema: RowSchema
    company_id: int
    rows: list[Values] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    def add(self, position: int, row: Values) -> None:
        """Add a checked row."""
        self.positions.append(position)
        self.rows.append(row)

    def new_empty(self) -> "Batch":
        """A batch of the same kind without rows."""
        return Batch(self.schema, self.company_id)

    def split(self) -> "tuple[Batch, Batch]":
        """The first and the second half of the good rows; each lands or fails by itself."""
        middle = len(self.rows) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, of: slice) -> "Batch":
        return Batch(self.schema, self.company_id, self.rows[of], self.positions[of])


def reasons_by_field(error: ValidationError) -> dict[str, str]:
    """Reasons by field (`services.0.cost`); never with the value itself."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part)[:64] for part in detail["loc"]) or "row"
        message = str(detail.get("ctx", {}).get("error") or detail["msg"])
        found.setdefault(field, _REASONS.get(detail["type"], message)[:MAX_REASON_CHARS])
    return found
