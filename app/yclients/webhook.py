"""Webhook events of YClients: one row was created, changed or deleted. Events arrive in any order."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from app.data_layer.unit_of_work import UnitOfWork
from app.errors import InvalidInputError, UnknownCompanyError
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
ONE_MICROSECOND = timedelta(microseconds=1)  # the resolution of timestamps in PostgreSQL
STATUSES = ("create", "update", "delete")


class EventOutcome(Enum):
    """Outcome of an event."""

    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    STALE = "stale"  # older than the stored row
    REJECTED = "rejected"  # invalid row
    UNKNOWN_RESOURCE = "unknown_resource"
    UNKNOWN_STATUS = "unknown_status"
    UNKNOWN_COMPANY = "unknown_company"


@dataclass(frozen=True)
class WebhookEvent:
    """One event. `data` is the current row, if YClients sends it."""

    company_id: int
    resource: str
    resource_id: Any
    status: Any
    data: Any

    @classmethod
    def parse(cls, document: Any) -> "WebhookEvent":
        """Parse `{company_id, resource, resource_id, status, data}`. Raises InvalidInputError."""
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
    """Store the row of an event. A repeated or older event changes nothing.

    Raises InvalidInputError if an id is invalid, and FrontdeskError if the database fails.
    """
    kind = KINDS_BY_RESOURCE.get(event.resource)
    if kind is None:
        return EventOutcome.UNKNOWN_RESOURCE
    if event.status not in STATUSES:
        return EventOutcome.UNKNOWN_STATUS
    row_id = event.row_id
    if kind is COMPANY:  # A removed company that is still cached must not be created again.
        desk.uow_factory.tenant_cache.invalidate(event.company_id)
    try:
        return _handle_row(Ingest(desk, event.company_id), kind, event, row_id)
    except UnknownCompanyError:  # removed since it was cached
        return EventOutcome.UNKNOWN_COMPANY


def _handle_row(ingest: Ingest, kind: EntityKind, event: WebhookEvent, row_id: int) -> EventOutcome:
    if not ingest.is_known:
        return EventOutcome.UNKNOWN_COMPANY
    payload = event.data if isinstance(event.data, Mapping) else {}
    if kind is COMPANY and row_id != event.company_id:
        return EventOutcome.REJECTED
    if integer(payload.get("id")) not in (None, row_id):
        return EventOutcome.REJECTED
    mapped = kind.map_payload({**payload, "id": row_id}, ingest.context())
    if event.status == "delete":
        deleted = ingest.transact(lambda uow: _deleted_row(uow, kind, row_id, mapped.row))
        if deleted is None:
            return EventOutcome.UNCHANGED
        return _store(ingest, kind, deleted, {})
    return _store(ingest, kind, {"deleted_at": None, **mapped.row}, mapped.warnings)


def _store(ingest: Ingest, kind: EntityKind, row: Values, warnings: Mapping[str, str]) -> EventOutcome:
    batch = ingest.new_batch(kind)
    problem = ingest.add_row(kind, batch, 0, row, warnings)
    if problem is not None:
        effect = "rejected" if problem.is_rejected else "stored in part"
        reasons = "; ".join(f"{field}: {reason}" for field, reason in problem.reasons.items())
        log.warning("Webhook of company %s, %s %s: %s", ingest.company_id, kind, effect, reasons)
    report = ingest.merge_chunk(kind, batch)
    for outcome in (EventOutcome.INSERTED, EventOutcome.UPDATED, EventOutcome.UNCHANGED, EventOutcome.STALE):
        if getattr(report, outcome.value):
            return outcome
    return EventOutcome.REJECTED


def _deleted_row(uow: UnitOfWork, kind: EntityKind, row_id: int, row: Values) -> Values | None:
    """Return the row marked as deleted, or None if the stored row already is.

    If the event contains no row, required fields are taken from the stored row. An unknown row is stored as
    deleted, so that an older event that arrives later does not restore it.
    """
    stored = _find_stored(uow, kind, row_id)
    if stored is not None and stored.deleted_at is not None:
        return None
    if stored is not None:
        row = {**row, **{name: getattr(stored, name) for name in kind.schema.required}}
    # One microsecond later than the last change, because an event of that change has the same time and may
    # be repeated. Without the time of the last change, the current time is used.
    changed_at = row.get("source_changed_at")
    moment = changed_at + ONE_MICROSECOND if isinstance(changed_at, datetime) else datetime.now(UTC)
    cancelled = {"status": "cancelled"} if kind is BOOKINGS else {}
    return {**row, **cancelled, "source_changed_at": moment, "deleted_at": moment}


def _find_stored(uow: Repositories, kind: EntityKind, row_id: int) -> Any:
    repository = kind.select_repository(uow)
    key = dict.fromkeys(kind.schema.key, row_id)
    return repository.find_one(**key)
