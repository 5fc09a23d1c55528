"""Kinds of rows, with the detection, mapping, schema and repository of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from app.repositories import Repositories
from app.repositories.base import Repository
from app.schemas import rows
from app.schemas.lenient import validate_lenient
from app.schemas.schema import RowSchema, Values
from app.schemas.types import Name
from app.yclients.mapping import bookings, payloads
from app.yclients.mapping.fields import MappedRow, MappingContext, Payload


@dataclass(frozen=True)
class EntityKind:
    """One kind of row.

    `distinctive_keys` are keys that only payloads of this kind have. `filename_hint` is a part of the names
    of its files.
    """

    name: str
    schema: RowSchema
    map_payload: Callable[[Payload, MappingContext], MappedRow]
    select_repository: Callable[[Repositories], Repository[Any]]
    distinctive_keys: frozenset[str]
    filename_hint: str

    def __str__(self) -> str:
        return self.name

    def validate(self, row: Any, company_id: int, country: str) -> tuple[Values, dict[str, str]]:
        """Return the validated row and the reasons of dropped fields (see `app.schemas.lenient`)."""
        values, reasons = validate_lenient(self.schema, row, company_id, country)
        if self is COMPANY and reasons:
            sent, _ = validate_lenient(_COMPANY_AS_SENT, row, company_id)
            values |= {name: sent[name] for name in reasons if name in sent}
        return values, reasons


@with_config(ConfigDict(extra="ignore", coerce_numbers_to_str=True))
class _CompanyAsSent(TypedDict, total=False):
    """Fields of a company that are stored even if invalid; `tenant_cache` then uses the defaults."""

    timezone: Name
    country: Name


_COMPANY_AS_SENT = RowSchema(_CompanyAsSent)

COMPANY = EntityKind(
    "company",
    rows.COMPANY,
    payloads.company,
    lambda repositories: repositories.companies,
    frozenset({"timezone", "country", "city", "address", "coordinate_lat", "coordinate_lon"}),
    "compan",
)
SERVICE_CATEGORIES = EntityKind(
    "service_categories",
    rows.SERVICE_CATEGORY,
    payloads.service_category,
    lambda repositories: repositories.service_categories,
    frozenset(),  # services have the same keys: id, title and weight
    "categor",
)
SERVICES = EntityKind(
    "services",
    rows.SERVICE,
    payloads.service,
    lambda repositories: repositories.services,
    frozenset({"price_min", "price_max", "category_id"}),
    "service",
)
STAFF = EntityKind(
    "staff",
    rows.STAFF,
    payloads.staff_member,
    lambda repositories: repositories.staff,
    frozenset({"specialization", "position", "fired", "hidden", "rating", "votes_count", "show_rating"}),
    "staff",
)
CLIENTS = EntityKind(
    "clients",
    rows.CLIENT,
    payloads.client,
    lambda repositories: repositories.clients,
    frozenset({"surname", "patronymic", "birth_date", "spent", "sold", "visits", "importance", "sex"}),
    "client",
)
SCHEDULES = EntityKind(
    "schedules",
    rows.STAFF_SCHEDULE,
    payloads.schedule,
    lambda repositories: repositories.staff_schedules,
    frozenset({"date", "slots", "is_working"}),
    "schedule",
)
BOOKINGS = EntityKind(
    "bookings",
    rows.BOOKING,
    bookings.booking,
    lambda repositories: repositories.bookings,
    frozenset({"date", "datetime", "staff_id", "client", "seance_length", "attendance", "visit_id"}),
    "booking",
)

# In the order of their import: a kind comes after the kinds that it references.
KINDS = (COMPANY, SERVICE_CATEGORIES, SERVICES, STAFF, CLIENTS, SCHEDULES, BOOKINGS)
KINDS_BY_NAME = {kind.name: kind for kind in KINDS}
