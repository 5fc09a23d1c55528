"""What the groups of operations share."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.data_layer.bulk_upsert import bulk_upsert
from app.data_layer.unit_of_work import UnitOfWork, Units
from app.errors import InvalidInputError
from app.phones import to_e164
from app.repositories import Repositories
from app.repositories.base import Repository
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import reasons
from app.schemas.types import Date, Duration, Id, Instant, Key, Limit, Name, Position

T = TypeVar("T")


class Argument:
    """A check of one argument of an operation."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def __call__(self, name: str, value: Any) -> Any:
        """The value, converted; raises InvalidInputError that names the argument and never its value."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            where, why = next(iter(reasons(error).items()))
            raise InvalidInputError(fields={name if where == "row" else f"{name}.{where}": why}) from None


an_id = Argument(Id)
optional_id = Argument(Id | None)
ids_of = Argument(list[Id])
a_limit = Argument(Limit)
a_position = Argument(Position | None)
a_flag = Argument(bool)
a_date = Argument(Date)
an_instant = Argument(Instant)
optional_instant = Argument(Instant | None)
a_duration = Argument(Duration)
optional_duration = Argument(Duration | None)
a_key = Argument(Key)
a_part_of_a_name = Argument(Name)


class Operations:
    """One company's operations. Reads are lone statements; writes are units of work, retried on deadlock."""

    def __init__(self, units: Units, company_id: int) -> None:
        self._units = units
        self.company_id = company_id

    @property
    def _reading(self) -> Repositories:
        return self._units.reading(self.company_id)

    def _transact(self, work: Callable[[UnitOfWork], T]) -> T:
        return self._units.transact(self.company_id, work)

    def _upsert_all(
        self, repository: Callable[[Repositories], Repository[Any]], rows: Iterable[Any]
    ) -> UpsertReport:
        """Validate outside the transaction, then merge what is good."""
        batch = repository(self._reading).validate(rows)
        return bulk_upsert(self._units, self.company_id, repository, batch)

    def _phone(self, repositories: Repositories, phone: str) -> str:
        try:
            return to_e164(phone, repositories.scope.country)
        except (ValueError, TypeError):
            raise InvalidInputError(fields={"phone": "is not a valid phone number"}) from None
