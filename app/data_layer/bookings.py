"""Operations on bookings: the mirrored rows, and the workflows create, confirm, reschedule and cancel."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import func

from app.data_layer.error_boundary import operation
from app.data_layer.free_slots import FreeSlot, free_starts, local_day
from app.data_layer.operations import (
    Operations,
    validate_date,
    validate_duration,
    validate_id,
    validate_ids,
    validate_instant,
    validate_optional_duration,
    validate_optional_id,
)
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Booking
from app.repositories.batch_dedup import UpsertReport
from app.schemas.rows import NEW_BOOKING, NEW_CLIENT
from app.schemas.schema import RowSchema, Values


class BookingOperations(Operations):
    """Operations on bookings. `*_by_id` and `*_by_ids` take YClients ids; workflows take Frontdesk's `id`."""

    @operation(Booking)
    def get_bookings(self, start: datetime, end: datetime, staff_id: int | None = None) -> list[Booking]:
        """Return the bookings that start in [start, end), including cancelled ones, by start."""
        period = validate_instant("start", start), validate_instant("end", end)
        if period[1] < period[0]:
            raise InvalidInputError(fields={"end": "is before start"})
        return list(
            self._read_only_repositories.bookings.between(*period, validate_optional_id("staff_id", staff_id))
        )

    @operation(Booking)
    def get_booking(self, id: int) -> Booking | None:
        """Return the booking with this Frontdesk id, or None."""
        return self._read_only_repositories.bookings.find_one(id=validate_id("id", id))

    @operation(Booking)
    def get_booking_by_id(self, id: int) -> Booking | None:
        """Return the booking with this YClients record id, or None."""
        return self._read_only_repositories.bookings.find_by_ids([validate_id("id", id)])[0]

    @operation(Booking)
    def get_bookings_by_ids(self, ids: Sequence[int]) -> list[Booking | None]:
        """Return the bookings with these YClients record ids in the order of `ids`, None for missing ones."""
        return self._read_only_repositories.bookings.find_by_ids(validate_ids("ids", ids))

    @operation(Booking)
    def upsert_booking(self, data: Mapping[str, Any]) -> Booking:
        """Insert or update a booking by `yclients_record_id`. An overlap is recorded, not refused."""
        return self._transact(lambda uow: uow.bookings.upsert(data))

    @operation(Booking)
    def upsert_bookings(self, rows: Iterable[Mapping[str, Any]]) -> UpsertReport:
        """Insert or update many bookings. The report lists invalid rows."""
        return self._upsert_all(lambda repositories: repositories.bookings, rows)

    @operation(Booking)
    def find_free_slots(
        self, date: date, duration: int, staff_id: int | None = None, step: int = 900
    ) -> list[FreeSlot]:
        """Return the free slots of `duration` seconds on the salon's local `date`, by staff and start.

        Slots start every `step` seconds from the beginning of each working interval.
        """
        day = validate_date("date", date)
        length, every = validate_duration("duration", duration), validate_duration("step", step)
        repositories = self._read_only_repositories
        zone = repositories.tenant.timezone
        availability = repositories.staff_schedules.find_availability(
            day, *local_day(day, zone), validate_optional_id("staff_id", staff_id)
        )
        return [
            FreeSlot(member, start, start + timedelta(seconds=length))
            for member, intervals, taken in availability
            for start in free_starts(
                day,
                zone,
                intervals,
                [(during.lower, during.upper) for during in taken],
                timedelta(seconds=length),
                timedelta(seconds=every),
            )
        ]

    @operation(Booking)
    def create_booking(self, client: Mapping[str, Any], booking: Mapping[str, Any]) -> Booking:
        """Reserve the slot and store client and booking in one transaction; return the booking.

        The client is found by phone, or created. Fails with `slot_taken` if the member of staff is busy. If
        a booking with the same `yclients_record_id` exists, it is returned unchanged.
        """
        country = self._read_only_repositories.tenant.country
        client_row = _validate(NEW_CLIENT, "client", client, self.company_id, country)
        booking_row = _validate(NEW_BOOKING, "booking", booking, self.company_id, country)
        services = booking_row.pop("services", [])
        length = booking_row.pop("duration", None)
        if length is not None:
            booking_row["ends_at"] = booking_row["starts_at"] + timedelta(seconds=length)
        booking_row |= {"client_phone": client_row["phone"], "client_name": client_row["name"]}

        def work(uow: UnitOfWork) -> Booking:
            record_id = booking_row.get("yclients_record_id")
            existing = uow.bookings.find_one(yclients_record_id=record_id) if record_id else None
            if existing is not None:
                return existing
            pending = {} if record_id else {"pending_since": func.now()}
            booking_id = uow.bookings.add({**booking_row, **pending}, services)
            uow.bookings.slots.reserve(
                booking_id, booking_row["staff_id"], booking_row["starts_at"], booking_row["ends_at"]
            )
            uow.bookings.update_columns(
                booking_id, {"client_id": uow.clients.find_or_create(client_row).yclients_id}
            )
            return _find_booking(uow, booking_id)

        return self._transact(work)

    @operation(Booking)
    def confirm_booking(self, id: int, yclients_record_id: int, client_id: int | None = None) -> Booking:
        """Store the YClients ids of a booking that Frontdesk created, and of its client."""
        booking_id, record_id = validate_id("id", id), validate_id("yclients_record_id", yclients_record_id)
        yclients_client = validate_optional_id("client_id", client_id)

        def work(uow: UnitOfWork) -> Booking:
            booking = _find_for_update(uow, booking_id)
            uow.bookings.confirm(booking, record_id)
            if yclients_client is not None:
                uow.bookings.update_columns(booking_id, {"client_id": yclients_client})
                if booking.client_phone is not None:
                    uow.clients.set_yclients_id(booking.client_phone, yclients_client)
            return _find_booking(uow, booking_id)

        return self._transact(work)

    @operation(Booking)
    def reschedule_booking(
        self, id: int, starts_at: datetime, staff_id: int | None = None, duration: int | None = None
    ) -> Booking:
        """Move a booking and its slot in one transaction. Duration and staff do not change unless given.

        Fails with `slot_taken`, `not_found`, or `conflict` if the booking is cancelled.
        """
        booking_id, start = validate_id("id", id), validate_instant("starts_at", starts_at)
        member, length = (
            validate_optional_id("staff_id", staff_id),
            validate_optional_duration("duration", duration),
        )

        def work(uow: UnitOfWork) -> Booking:
            booking = _find_for_update(uow, booking_id)
            if booking.status != "active" or booking.deleted_at is not None:
                raise ConflictError("The booking is cancelled: create a new one.")
            staff = member or booking.staff_id
            if staff is None:
                raise InvalidInputError(
                    fields={"staff_id": "is required: the booking has no member of staff yet"}
                )
            current_length = booking.ends_at - booking.starts_at
            end = start + (timedelta(seconds=length) if length is not None else current_length)
            uow.bookings.slots.reserve(booking_id, staff, start, end)
            moved = {"staff_id": staff, "starts_at": start, "ends_at": end}
            uow.bookings.update_columns(
                booking_id, {**moved, "pending_since": func.now(), "updated_at": func.now()}
            )
            return _find_booking(uow, booking_id)

        return self._transact(work)

    @operation(Booking)
    def cancel_booking(self, id: int) -> Booking:
        """Cancel a booking and release its slot. A cancelled booking does not change."""
        booking_id = validate_id("id", id)

        def work(uow: UnitOfWork) -> Booking:
            booking = _find_for_update(uow, booking_id)
            if booking.status == "cancelled":
                return booking
            uow.bookings.slots.release(booking_id)
            uow.bookings.update_columns(
                booking_id,
                {"status": "cancelled", "pending_since": func.now(), "updated_at": func.now()},
            )
            return _find_booking(uow, booking_id)

        return self._transact(work)


def _validate(schema: RowSchema, argument: str, row: Any, company_id: int, country: str) -> Values:
    try:
        return schema.validate(row, company_id, country)
    except InvalidInputError as error:
        fields = {f"{argument}.{field}": reason for field, reason in error.fields.items()}
        raise InvalidInputError(fields=fields) from None


def _find_for_update(uow: UnitOfWork, booking_id: int) -> Booking:
    booking = uow.bookings.find_for_update(booking_id)
    if booking is None:
        raise NotFoundError
    return booking


def _find_booking(uow: UnitOfWork, booking_id: int) -> Booking:
    booking = uow.bookings.find_one(id=booking_id)
    if booking is None:
        raise NotFoundError
    return booking
