"""The slots of bookings. The exclusion constraint detects conflicts; no statement checks for them first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import sql

from app.database.connection import Connection
from app.errors import RetryableConflictError, SlotTakenError

# The condition under which a row of `bookings` occupies time, and the time that it occupies.
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
      -- Repeat the condition in the form of the exclusion constraint's index expressions, so that the index
      -- is used.
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
          -- NOT IN instead of NOT EXISTS: for a company without statistics, PostgreSQL would run NOT EXISTS
          -- as a nested loop over the company's slots.
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
# Each attempt waits for the transactions that conflicted with the previous attempt. More than a few
# attempts mean that other transactions keep reserving the same times.
MAX_INSERT_ATTEMPTS = 10
# For a company without statistics, PostgreSQL may compare each booking of a statement with all others.
BOOKINGS_PER_STATEMENT = 10_000


class BookingSlots:
    """The slots of one company's bookings, in a unit of work."""

    def __init__(self, connection: Connection, company_id: int) -> None:
        self._connection = connection
        self._company_id = company_id

    def reserve(self, booking_id: int, staff_id: int, starts_at: datetime, ends_at: datetime) -> None:
        """Reserve time for a booking made here; replaces the slot that the booking has.

        The claim is unbounded, so it conflicts with every overlapping slot. The call waits for concurrent
        transactions that reserve the same time. Concurrent plain INSERTs can deadlock under an exclusion
        constraint; ON CONFLICT avoids that. Raises SlotTakenError if the time is taken.
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
        """Delete the slot of a booking, if it has one."""
        self._connection.execute(
            "DELETE FROM booking_slots WHERE company_id = %s AND booking = %s", (self._company_id, booking_id)
        )

    def mirror(self, booking_ids: Sequence[int]) -> None:
        """Update the slots of bookings that were just written from YClients.

        A booking from YClients gets its slot even if it overlaps another one: its claim is its own id only,
        and the unbounded claim of an overlapping booking made here is first narrowed to that booking's
        id. Both slots still conflict with new bookings made here, whose claim is unbounded. Raises
        RetryableConflictError if other transactions keep reserving the same times.
        """
        for first in range(0, len(booking_ids), BOOKINGS_PER_STATEMENT):
            self._mirror(booking_ids[first : first + BOOKINGS_PER_STATEMENT])

    def _mirror(self, booking_ids: Sequence[int]) -> None:
        parameters: dict[str, Any] = {"company_id": self._company_id, "bookings": list(booking_ids)}
        self._connection.execute(_DELETE_OUTDATED, parameters)
        for _ in range(MAX_INSERT_ATTEMPTS):
            self._connection.execute(_NARROW_LOCAL_CLAIMS, parameters)
            still_missing = self._connection.execute(_ADD_MISSING, parameters).fetchone()
            if still_missing is not None and still_missing[0] == 0:
                return
        raise RetryableConflictError
