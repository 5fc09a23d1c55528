"""Bookings: reads with their services, and upserts from YClients that confirm bookings made here."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Text,
    any_,
    bindparam,
    delete,
    func,
    or_,
    select,
    union,
    update,
)

from app.database.bulk_merge import MergeResult, MergeTarget, OverwritePolicy, merge
from app.database.query import Query
from app.errors import ConflictError, InvalidInputError
from app.models import Booking, BookingService, BookingSlot, Client
from app.repositories.base import Repository, filtered_by_company
from app.repositories.booking_slots import BookingSlots
from app.schemas import rows as schemas
from app.schemas.schema import Values

SERVICE_COLUMNS = ("booking", "position", "service_id", "title", "amount", "cost", "discount")

_company_id = bindparam("company_id", type_=BigInteger)
_phone = bindparam("phone", type_=Text)
_staff_id = bindparam("staff_id", type_=BigInteger)
_start = bindparam("start", type_=DateTime(timezone=True))
_end = bindparam("end", type_=DateTime(timezone=True))
_present = (
    filtered_by_company(select(Booking))
    .where(Booking.deleted_at.is_(None))
    .order_by(Booking.starts_at, Booking.id)
)
_BETWEEN = Query(
    _present.where(
        Booking.starts_at >= _start,
        Booking.starts_at < _end,
        or_(_staff_id.is_(None), Booking.staff_id == _staff_id),
    )
)
# A booking has the phone itself, or the id of a client with this phone. A UNION lets each half use its own
# index.
_ids_of_client = union(
    select(Booking.id).where(Booking.company_id == _company_id, Booking.client_phone == _phone),
    select(Booking.id)
    .join(Client, (Client.company_id == Booking.company_id) & (Client.yclients_id == Booking.client_id))
    .where(Booking.company_id == _company_id, Client.phone == _phone, Client.deleted_at.is_(None)),
)
_OF_CLIENT = Query(
    _present.where(
        Booking.id.in_(_ids_of_client),
        or_(_start.is_(None), Booking.starts_at >= _start),
        or_(_end.is_(None), Booking.starts_at < _end),
        or_(bindparam("include_cancelled"), Booking.status == "active"),
    )
)
_SERVICES = Query(
    filtered_by_company(select(BookingService))
    .where(BookingService.booking == any_(bindparam("bookings", type_=ARRAY(BigInteger))))
    .order_by(BookingService.booking, BookingService.position)
)


class BookingRepository(Repository[Booking]):
    """The salon's bookings."""

    model = Booking
    schema = schemas.BOOKING
    target = MergeTarget(Booking, ("yclients_record_id",), OverwritePolicy.NEWER_IF_PENDING)

    @property
    def slots(self) -> BookingSlots:
        """Return the slots of this company's bookings; needs a unit of work."""
        return BookingSlots(self._connection, self.tenant.company_id)

    # Reading

    def between(self, start: datetime, end: datetime, staff_id: int | None = None) -> Sequence[Booking]:
        """Return the bookings that start in [start, end), by start; of one staff member or of all."""
        return self._read(_BETWEEN, start=start, end=end, staff_id=staff_id)

    def find_by_client_phone(
        self, phone: str, start: datetime | None, end: datetime | None, include_cancelled: bool
    ) -> Sequence[Booking]:
        """Return the bookings of the clients with this phone that start in [start, end); None: unlimited."""
        return self._read(_OF_CLIENT, phone=phone, start=start, end=end, include_cancelled=include_cancelled)

    def find_for_update(self, booking_id: int) -> Booking | None:
        """Return the booking by its `id` (not the YClients id), locked until the unit of work ends."""
        query = Query(filtered_by_company(select(Booking)).where(Booking.id == booking_id).with_for_update())
        found = self._read(query)
        return found[0] if found else None

    def _read(self, query: Query[Booking], **parameters: Any) -> Sequence[Booking]:
        bookings = super()._read(query, **parameters)
        if bookings:
            booked: dict[int, list[BookingService]] = {}
            ids = [booking.id for booking in bookings]
            for service in self._reader.all(_SERVICES, company_id=self.tenant.company_id, bookings=ids):
                booked.setdefault(service.booking, []).append(service)
            for booking in bookings:
                booking.services = tuple(booked.get(booking.id, ()))
        return bookings

    # Writing

    def add(self, values: Values, services: Sequence[Values]) -> int:
        """Insert a booking made here, without a slot (see `slots.reserve`); return its id."""
        booking = Booking(company_id=self.tenant.company_id, source="assistant", **values)
        self._open_session.add(booking)
        self._open_session.flush()
        self._open_session.add_all(
            BookingService(
                company_id=self.tenant.company_id, booking=booking.id, position=position, **service
            )
            for position, service in enumerate(services)
        )
        self._open_session.flush()
        return booking.id

    def update_columns(self, booking_id: int, values: Mapping[str, Any]) -> None:
        """Update columns of the booking with this `id`. Raises InvalidInputError for `company_id`."""
        if "company_id" in values:
            raise InvalidInputError(fields={"company_id": "cannot be changed"})
        self._open_session.execute(
            update(Booking)
            .where(Booking.company_id == self.tenant.company_id, Booking.id == booking_id)
            .values(**values)
        )

    def delete(self, **filters: Any) -> int:
        """Delete the matching bookings with their slots and services; return the number of bookings."""
        for child in (BookingSlot, BookingService):
            matching = select(Booking.id).where(*self._where(filters))
            self._open_session.execute(
                delete(child).where(child.company_id == self.tenant.company_id, child.booking.in_(matching))
            )
        return super().delete(**filters)

    def confirm(self, booking: Booking, yclients_record_id: int) -> None:
        """Set the YClients record id of a booking made here. The caller has locked the booking.

        If the record was already mirrored as a row of its own, that row is deleted and its values are
        copied to the booking. The booking is no longer pending, unless it was changed here after its
        creation. Raises ConflictError if the booking has another record id, or if another booking made
        here has this record id.
        """
        if booking.yclients_record_id == yclients_record_id:
            return
        if booking.yclients_record_id is not None:
            raise ConflictError("This booking already has another YClients record id.")
        mirrored = self.find_one(yclients_record_id=yclients_record_id)
        if mirrored is not None and mirrored.source == "assistant":
            raise ConflictError("This YClients record already belongs to another booking made here.")
        values: dict[str, Any] = {"yclients_record_id": yclients_record_id, "updated_at": func.now()}
        if booking.pending_since == booking.created_at:
            values["pending_since"] = None
        if mirrored is not None:
            self.delete(id=mirrored.id)
            values |= {
                name: getattr(mirrored, name)
                for name in (
                    "client_id",
                    "client_phone",
                    "client_name",
                    "price",
                    "attendance",
                    "source_changed_at",
                )
                if getattr(mirrored, name) is not None
            }
        self.update_columns(booking.id, values)

    def _merge_rows(self, rows: list[Values]) -> MergeResult:
        self._confirm_local_bookings(rows)
        return super()._merge_rows([{k: v for k, v in row.items() if k != "id"} for row in rows])

    def _confirm_local_bookings(self, rows: list[Values]) -> None:
        """Confirm the bookings made here whose `id` a record from YClients contains. Ignore unknown ids."""
        record_by_id = {row["id"]: row["yclients_record_id"] for row in rows if row.get("id")}
        if not record_by_id:
            return
        open_ids = self.find_many(
            id__in=list(record_by_id), source="assistant", yclients_record_id=None, order_by="id"
        )
        for candidate in open_ids:
            booking = self.find_for_update(candidate.id)
            if booking is not None and booking.yclients_record_id is None:
                self.confirm(booking, record_by_id[booking.id])

    def _merge_uniform_rows(self, names: frozenset[str], rows: list[Values]) -> MergeResult:
        columns = self._columns(names)
        values = [*map(itemgetter(*columns), rows)]
        with_services = "services" in names
        merged = merge(self._connection, self.target, self.tenant.company_id, columns, values, want_ids=True)
        if with_services:
            ids = {record_id: row_id for (record_id,), row_id in merged.ids_by_key.items()}
            self._replace_children(
                merged,
                BookingService,
                SERVICE_COLUMNS,
                "id",
                {row_id: row_id for row_id in ids.values()},
                [
                    (
                        ids[row["yclients_record_id"]],
                        position,
                        service["service_id"],
                        service.get("title"),
                        service.get("amount", 1),
                        service.get("cost"),
                        service.get("discount"),
                    )
                    for row in rows
                    if row["yclients_record_id"] in ids
                    for position, service in enumerate(row["services"])
                ],
            )
        if merged.written_ids:
            self.slots.mirror(merged.written_ids)
        return merged
