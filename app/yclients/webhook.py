"""What YClients tells us by itself: one row made, changed or deleted, at any time and in any order."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from app.data_layer.unit_of_work import UnitOfWork
from app.errors import InvalidInputError
from app.frontdesk import Frontdesk
from app.repositories import Repositories
from app.schemas.schema import Values
from app.schemas.types import MAX_ID
from app.yclients.ingest import Ingest
from app.yclients.mapping.entities import (
    BOOKINGS,
    CLIENTS,
    COMPANY,
    SERVICE_CATEGORIES,
    SERVICES,
    STAFF,
    EntityKind,
)
from app.yclients.mapping.values import integer

log = logging.getLogger(__name__)

KINDS_BY_RESOURCE = {
    "company": COMPANY,
    "service_category": SERVICE_CATEGORIES,
    "service": SERVICES,
    "staff": STAFF,
    "client": CLIENTS,
    "record": BOOKINGS,
}
ONE_MICROSECOND = timedelta(microseconds=1)  # what a timestamp of PostgreSQL can tell apart
STATUSES = ("create", "update", "delete")


class EventOutcome(Enum):
    """What became of an event."""

    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    STALE = "stale"  # older than what is stored
    REJECTED = "rejected"  # no usable row
    UNKNOWN_RESOURCE = "unknown_resource"
    UNKNOWN_STATUS = "unknown_status"
    UNKNOWN_COMPANY = "unknown_company"


@dataclass(frozen=True)
class WebhookEvent:
    """One notice: `resource` and `status` as they were sent, `data` the row as it is now, perhaps."""

    company_id: int
    resource: str
    resource_id: Any
    status: Any
    data: Any

    @classmethod
    def parse(cls, document: Any) -> "WebhookEvent":
        """Read `{company_id, resource, resource_id, status, data}`. Raises InvalidInputError."""
        if not isinstance(document, Mapping):
            raise InvalidInputError("The body must be an object.")
        company_id, resource = integer(document.get("company_id")), document.get("resource")
        if not isinstance(company_id, int) or not 1 <= company_id <= MAX_ID:
            raise InvalidInputError(fields={"company_id": "must be a positive integer"})
        if not isinstance(resource, str):
            raise InvalidInputError(fields={"resource": "must be a name"})
        return cls(
            company_id, resource, document.get("resource_id"), document.get("status"), document.get("data")
        )

    @property
    def row_id(self) -> int:
        """The YClients id of the row. Raises InvalidInputError."""
        row_id = integer(self.resource_id)
        if not isinstance(row_id, int) or not 1 <= row_id <= MAX_ID:
            raise InvalidInputError(fields={"resource_id": "must be a positive integer"})
        return row_id


def handle_event(desk: Frontdesk, event: WebhookEvent) -> EventOutcome:
    """Store what the event tells; the same event again changes nothing, an older one neither.

    Raises InvalidInputError for an id that is none, and FrontdeskError.
    """
    kind = KINDS_BY_RESOURCE.get(event.resource)
    if kind is None:
        return EventOutcome.UNKNOWN_RESOURCE
    if event.status not in STATUSES:
        return EventOutcome.UNKNOWN_STATUS
    row_id = event.row_id
    intake = Ingest(desk, event.company_id)
    if not intake.is_known:
        return EventOutcome.UNKNOWN_COMPANY
    payload = event.data if isinstance(event.data, Mapping) else {}
    if kind is COMPANY and row_id != event.company_id:
        return EventOutcome.REJECTED
    if integer(payload.get("id")) not in (None, row_id):
        return EventOutcome.REJECTED
    mapped = kind.map_payload({**payload, "id": row_id}, intake.context())
    if event.status == "delete":
        deleted = intake.transact(lambda uow: _deleted_row(uow, kind, row_id, mapped.row))
        if deleted is None:
            return EventOutcome.UNCHANGED
        return _store(intake, kind, deleted, {})
    return _store(intake, kind, {"deleted_at": None, **mapped.row}, mapped.warnings)


def _store(ingest: Ingest, kind: EntityKind, row: Values, warnings: Mapping[str, str]) -> EventOutcome:
    batch = ingest.new_batch(kind)
    fault = ingest.add_row(kind, batch, 0, row, warnings)
    if fault is not None:
        how = "rejected" if fault.is_rejected else "stored in part"
        reasons = "; ".join(f"{field}: {reason}" for field, reason in fault.reasons.items())
        log.warning("Webhook of company %s, %s %s: %s", ingest.company_id, kind, how, reasons)
    report = ingest.merge_chunk(kind, batch)
    for outcome in (EventOutcome.INSERTED, EventOutcome.UPDATED, EventOutcome.UNCHANGED, EventOutcome.STALE):
        if getattr(report, outcome.value):
            return outcome
    return EventOutcome.REJECTED


def _deleted_row(uow: UnitOfWork, kind: EntityKind, row_id: int, row: Values) -> Values | None:
    """The row as deleted; None where it is so already.

    The event may bring no row, so ours lends what a row must have. A row that is not here yet is stored as
    deleted, so that an older event that comes later does not bring it to life.
    """
    stored = _stored(uow, kind, row_id)
    if stored is not None and stored.deleted_at is not None:
        return None
    if stored is not None:
        row = {**row, **{name: getattr(stored, name) for name in kind.schema.required}}
    # A moment after the last change, which may have the same time and come again. By our clock, where
    # YClients does not say when that was.
    changed_at = row.get("source_changed_at")
    moment = changed_at + ONE_MICROSECOND if isinstance(changed_at, datetime) else datetime.now(UTC)
    cancelled = {"status": "cancelled"} if kind is BOOKINGS else {}
    return {**row, **cancelled, "source_changed_at": moment, "deleted_at": moment}


def _stored(uow: Repositories, kind: EntityKind, row_id: int) -> Any:
    repository = kind.select_repository(uow)
    key = dict.fromkeys(kind.schema.key, row_id)
    return repository.find_one(**key)
