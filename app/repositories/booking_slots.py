"""The slots that bookings hold. One exclusion constraint decides; nothing here looks before it leaps."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import sql

from app.database.database import Connection
from app.errors import RetryableConflictError, SlotTakenError

# What makes a row of `bookings` take its member of staff's time, and which.
_PARTS = {
    "holds_time": sql.SQL("b.status = 'active' AND b.deleted_at IS NULL AND b.staff_id IS NOT NULL"),
    "during": sql.SQL("tstzrange(b.starts_at, b.ends_at)"),
}
_DELETE_OUTDATED = sql.SQL(
    """
    DELETE FROM booking_slots AS s USING bookings AS b
    WHERE s.company_id = %(company_id)s AND s.booking = ANY(%(bookings)s)
      AND b.company_id = %(company_id)s AND b.id = s.booking
      AND NOT ({holds_time} AND b.staff_id = s.staff_id AND {during} = s.during)
    """
).format(**_PARTS)
_NARROW_LOCAL_CLAIMS = sql.SQL(
    """
    UPDATE booking_slots AS ours SET claim = int8range(ours.booking, ours.booking, '[]'), updated_at = now()
    FROM bookings AS b
    WHERE b.company_id = %(company_id)s AND b.id = ANY(%(bookings)s) AND {holds_time}
      AND ours.company_id = %(company_id)s AND ours.staff_id = b.staff_id
      -- The same again, as the index of the exclusion constraint has it.
      AND int8range(ours.company_id, ours.company_id, '[]')
          = int8range(%(company_id)s::bigint, %(company_id)s::bigint, '[]')
      AND int8range(ours.staff_id, ours.staff_id, '[]') = int8range(b.staff_id, b.staff_id, '[]')
      AND ours.during && {during} AND ours.booking <> b.id AND upper_inf(ours.claim)
    """
).format(**_PARTS)
_ADD_MISSING = sql.SQL(
    """
    WITH missing AS (
        SELECT b.id, b.staff_id, {during} AS during FROM bookings AS b
        WHERE b.company_id = %(company_id)s AND b.id = ANY(%(bookings)s) AND {holds_time}
          -- Not EXISTS: for a company that ANALYZE has not seen, that becomes a nested loop over its slots.
          AND b.id NOT IN (
              SELECT s.booking FROM booking_slots AS s
              WHERE s.company_id = %(company_id)s AND s.booking = ANY(%(bookings)s)
          )
    ), made AS (
        INSERT INTO booking_slots (company_id, booking, staff_id, claim, during)
        SELECT %(company_id)s, id, staff_id, int8range(id, id, '[]'), during FROM missing
        ORDER BY staff_id, during
        ON CONFLICT ON CONSTRAINT booking_slots_no_overlap DO NOTHING
        RETURNING booking
    )
    SELECT (SELECT count(*) FROM missing) - (SELECT count(*) FROM made)
    """
).format(**_PARTS)
# Each round waits for the transactions that were in the way of the last one; more than a few rounds
# mean that somebody fills the same hours as fast as we do.
MAX_INSERT_ATTEMPTS = 10
# Bookings in one statement. For a company that ANALYZE has not seen PostgreSQL may go through all of them
# for each of them.
BOOKINGS_PER_STATEMENT = 10_000


class BookingSlots:
    """Slots of one company's bookings, inside a unit of work."""

    def __init__(self, connection: Connection, company_id: int) -> None:
        self._connection = connection
        self._company_id = company_id

    def reserve(self, booking_id: int, staff_id: int, starts_at: datetime, ends_at: datetime) -> None:
        """Take the time for a booking made here, in place of the slot it may hold.

        The claim is unbounded: it overlaps every other. Waits for a transaction that is taking the same
        time; raises SlotTakenError where the time is taken. ON CONFLICT spares concurrent inserts the
        deadlock that a plain INSERT runs into under an exclusion constraint.
        """
        self.release(booking_id)
        taken = self._connection.execute(
            """
            INSERT INTO booking_slots (company_id, booking, staff_id, claim, during)
            VALUES (%(company_id)s, %(booking)s, %(staff_id)s, int8range(NULL, NULL),
                    tstzrange(%(starts_at)s, %(ends_at)s))
            ON CONFLICT ON CONSTRAINT booking_slots_no_overlap DO NOTHING
            """,
            {
                "company_id": self._company_id,
                "booking": booking_id,
                "staff_id": staff_id,
                "starts_at": starts_at,
                "ends_at": ends_at,
            },
        )
        if not taken.rowcount:
            raise SlotTakenError

    def release(self, booking_id: int) -> None:
        """Give the time back."""
        self._connection.execute(
            "DELETE FROM booking_slots WHERE company_id = %s AND booking = %s", (self._company_id, booking_id)
        )

    def mirror(self, booking_ids: Sequence[int]) -> None:
        """Bring the slots of these bookings, just written from YClients, in line with their rows.

        Theirs is recorded whatever it overlaps: it claims only itself, and one of ours in its way is
        narrowed to itself first. Both go on blocking new bookings, whose claim is unbounded.
        """
        for first in range(0, len(booking_ids), BOOKINGS_PER_STATEMENT):
            self._mirror(booking_ids[first : first + BOOKINGS_PER_STATEMENT])

    def _mirror(self, booking_ids: Sequence[int]) -> None:
        parameters: dict[str, Any] = {"company_id": self._company_id, "bookings": list(booking_ids)}
        self._connection.execute(_DELETE_OUTDATED, parameters)
        for _ in range(MAX_INSERT_ATTEMPTS):
            self._connection.execute(_NARROW_LOCAL_CLAIMS, parameters)
            left = self._connection.execute(_ADD_MISSING, parameters).fetchone()
            if left is not None and left[0] == 0:
                return
        raise RetryableConflictError
