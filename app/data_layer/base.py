"""What the groups of operations share."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from app.errors import InvalidInputError
from app.phones import to_e164
from app.repositories import Repositories
from app.repositories.base import Repository, UpsertReport
from app.schemas.types import Count, Date, Duration, Id, Instant, Key
from app.unit_of_work import UnitOfWork, Units

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
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in (name, *first["loc"]))
            raise InvalidInputError(
                fields={where: str(first.get("ctx", {}).get("error") or first["msg"])}
            ) from None


an_id = Argument(Id)
optional_id = Argument(Id | None)
ids_of = Argument(list[Id])
a_limit = Argument(Annotated[int, Field(ge=1, le=100_000)])
a_position = Argument(Count | None)
a_date = Argument(Date)
an_instant = Argument(Instant)
optional_instant = Argument(Instant | None)
a_duration = Argument(Duration)
optional_duration = Argument(Duration | None)
a_key = Argument(Key)


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
        """Validate once, outside the transaction, then merge."""
        batch = repository(self._reading).validate(rows)
        return self._transact(lambda uow: repository(uow).bulk_upsert(batch))

    def _phone(self, repositories: Repositories, phone: str) -> str:
        try:
            return to_e164(phone, repositories.scope.country)
        except (ValueError, TypeError):
            raise InvalidInputError(fields={"phone": "is not a valid phone number"}) from None
