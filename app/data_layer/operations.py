"""Base class of the operations, and validators of their arguments."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.data_layer.bulk_upsert import bulk_upsert_bisecting
from app.data_layer.unit_of_work import UnitOfWork, UnitOfWorkFactory
from app.errors import InvalidInputError
from app.phones import to_e164
from app.repositories import Repositories
from app.repositories.base import Repository
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import reasons_by_field
from app.schemas.types import (
    AwareInstant,
    Date,
    DurationSeconds,
    Id,
    KeyText,
    Name,
    NonNegativeInteger,
    PageLimit,
)

T = TypeVar("T")


class ArgumentValidator:
    """Validator of one argument of an operation."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def __call__(self, name: str, value: Any) -> Any:
        """Return the converted value. Raises InvalidInputError, which names the argument, not its value."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            field, reason = next(iter(reasons_by_field(error).items()))
            raise InvalidInputError(fields={name if field == "row" else f"{name}.{field}": reason}) from None


validate_id = ArgumentValidator(Id)
validate_optional_id = ArgumentValidator(Id | None)
validate_ids = ArgumentValidator(list[Id])
validate_limit = ArgumentValidator(PageLimit)
validate_cursor = ArgumentValidator(NonNegativeInteger | None)
validate_flag = ArgumentValidator(bool)
validate_date = ArgumentValidator(Date)
validate_instant = ArgumentValidator(AwareInstant)
validate_optional_instant = ArgumentValidator(AwareInstant | None)
validate_duration = ArgumentValidator(DurationSeconds)
validate_optional_duration = ArgumentValidator(DurationSeconds | None)
validate_key_text = ArgumentValidator(KeyText)
validate_name_part = ArgumentValidator(Name)


class Operations:
    """Operations of one company. A read is a single statement; a write is a unit of work that is retried."""

    def __init__(self, uow_factory: UnitOfWorkFactory, company_id: int) -> None:
        self._uow_factory = uow_factory
        self.company_id = company_id

    @property
    def _read_only_repositories(self) -> Repositories:
        return self._uow_factory.read_only_repositories(self.company_id)

    def _transact(self, function: Callable[[UnitOfWork], T]) -> T:
        return self._uow_factory.transact(self.company_id, function)

    def _upsert_all(
        self, select_repository: Callable[[Repositories], Repository[Any]], rows: Iterable[Any]
    ) -> UpsertReport:
        """Validate the rows outside a transaction, then merge the valid ones."""
        batch = select_repository(self._read_only_repositories).validate(rows)
        return bulk_upsert_bisecting(self._uow_factory, self.company_id, select_repository, batch)

    def _phone(self, repositories: Repositories, phone: str) -> str:
        try:
            return to_e164(phone, repositories.tenant.country)
        except (ValueError, TypeError):
            raise InvalidInputError(fields={"phone": "is not a valid phone number"}) from None
