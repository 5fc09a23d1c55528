"""Validation of rows, with a reason for each invalid field."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidInputError

# Replacements for messages of pydantic that require knowledge of Python.
_REASONS = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "string_pattern_mismatch": "contains characters that are not allowed, such as NUL",
    "string_unicode": "is not valid Unicode",
    "timezone_aware": "has no time zone (an aware datetime is required)",
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
    """A rejected row: its position (from 0), its key if it has a readable one, and the reasons by field."""

    position: int
    key: RowKey | None
    errors: Mapping[str, str]


class RowSchema:
    """Schema of one kind of row: its fields, its key, and a check across fields."""

    def __init__(
        self,
        row_type: Any,
        key: tuple[str, ...] = (),
        check: Callable[[Values], Mapping[str, str]] | None = None,
    ) -> None:
        """Use the fields of `row_type`, a TypedDict that forbids extra keys.

        `check` returns the problems across fields, as reasons by field.
        """
        self._adapter: TypeAdapter[Values] = TypeAdapter(row_type)
        self._check = check
        self.key = key
        self.required: frozenset[str] = row_type.__required_keys__
        self.fields: frozenset[str] = self.required | row_type.__optional_keys__

    def validate(self, row: Any, company_id: int, country: str = "RU") -> Values:
        """Return the row with converted values (ids as int, phones in E.164, times in UTC).

        A `company_id` in the row must equal `company_id`. Raises InvalidInputError with reasons by field.
        """
        if isinstance(row, Mapping) and "company_id" in row:
            if row["company_id"] != company_id:
                raise InvalidInputError(fields={"company_id": "names another company"})
            row = {name: value for name, value in row.items() if name != "company_id"}
        try:
            values = self._adapter.validate_python(row, context={"country": country})
        except ValidationError as error:
            raise InvalidInputError(fields=reasons_by_field(error)) from None
        if self._check is not None and (problems := self._check(values)):
            raise InvalidInputError(fields=problems)
        return values

    def validate_all(self, rows: Iterable[Any], company_id: int, country: str = "RU") -> "Batch":
        """Validate rows; return the valid ones in their order, and the rejected ones.

        Raises InvalidInputError if `rows` is not an iterable of rows.
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
        """Return the key of the row for a report, or None if a part is missing, too long or not simple."""
        if not isinstance(row, Mapping):
            return None
        key = [row.get(name) for name in self.key]
        readable = tuple(part for part in key if isinstance(part, (int, str, date)) and len(str(part)) <= 64)
        return readable if len(readable) == len(key) else None


@dataclass
class Batch:
    """Validated rows of one company with their positions in the input, and the rejected rows."""

    schema: RowSchema
    company_id: int
    rows: list[Values] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    def add(self, position: int, row: Values) -> None:
        """Add a validated row."""
        self.positions.append(position)
        self.rows.append(row)

    def new_empty(self) -> "Batch":
        """Return an empty batch with the same schema and company."""
        return Batch(self.schema, self.company_id)

    def split(self) -> "tuple[Batch, Batch]":
        """Return the first and the second half of the valid rows as two batches."""
        middle = len(self.rows) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, of: slice) -> "Batch":
        return Batch(self.schema, self.company_id, self.rows[of], self.positions[of])


def reasons_by_field(error: ValidationError) -> dict[str, str]:
    """Return the reasons by field path, such as `services.0.cost`. The reasons do not contain values."""
    reasons: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part)[:64] for part in detail["loc"]) or "row"
        message = str(detail.get("ctx", {}).get("error") or detail["msg"])
        reasons.setdefault(field, _REASONS.get(detail["type"], message)[:MAX_REASON_CHARS])
    return reasons
