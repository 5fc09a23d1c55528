"""Staff and their schedules."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, LiteralString

from sqlalchemy import BigInteger, and_, bindparam, or_, select

from app.database.bulk_merge import MergeTarget, OverwritePolicy
from app.database.query import Query
from app.models import Staff, StaffSchedule
from app.repositories.base import filtered_by_company
from app.repositories.mirrored_rows import MirroredRepository
from app.schemas import rows as schemas

_ALL_STAFF = Query(
    filtered_by_company(select(Staff))
    .where(Staff.deleted_at.is_(None), or_(Staff.is_active, bindparam("include_inactive")))
    .order_by(Staff.weight.desc().nulls_last(), Staff.name, Staff.id)
)
_staff_id = bindparam("staff_id", type_=BigInteger)
_SCHEDULES = Query(
    filtered_by_company(select(StaffSchedule))
    .where(
        StaffSchedule.deleted_at.is_(None),
        and_(StaffSchedule.date >= bindparam("first"), StaffSchedule.date <= bindparam("last")),
        or_(_staff_id.is_(None), StaffSchedule.staff_id == _staff_id),
    )
    .order_by(StaffSchedule.date, StaffSchedule.staff_id)
)


_AVAILABILITY_SQL: LiteralString = """
    SELECT s.staff_id, s.intervals, ARRAY(
        SELECT busy.during FROM booking_slots AS busy
        WHERE int8range(busy.company_id, busy.company_id, '[]') = int8range(s.company_id, s.company_id, '[]')
          AND int8range(busy.staff_id, busy.staff_id, '[]') = int8range(s.staff_id, s.staff_id, '[]')
          AND busy.during && tstzrange(%(start)s, %(end)s)
    )
    FROM staff_schedules AS s
    LEFT JOIN staff AS member ON member.company_id = s.company_id AND member.yclients_id = s.staff_id
    WHERE s.company_id = %(company_id)s AND s.date = %(day)s AND s.is_working AND s.deleted_at IS NULL
      AND (%(staff_id)s::bigint IS NULL OR s.staff_id = %(staff_id)s)
      AND (member.id IS NULL
           OR (member.is_active AND member.is_bookable AND member.deleted_at IS NULL))
    ORDER BY s.staff_id
"""


class StaffRepository(MirroredRepository[Staff]):
    """The salon's staff."""

    model = Staff
    schema = schemas.STAFF
    target = MergeTarget(Staff, ("yclients_id",), OverwritePolicy.NOT_OLDER)

    def find_staff(self, include_inactive: bool = False) -> Sequence[Staff]:
        """Return the active staff; with `include_inactive` also dismissed staff."""
        return self._read(_ALL_STAFF, include_inactive=include_inactive)


class StaffScheduleRepository(MirroredRepository[StaffSchedule]):
    """Working hours of the staff by date."""

    model = StaffSchedule
    schema = schemas.STAFF_SCHEDULE
    target = MergeTarget(StaffSchedule, ("staff_id", "date"), OverwritePolicy.NOT_OLDER)

    def between(self, first: date, last: date, staff_id: int | None = None) -> Sequence[StaffSchedule]:
        """Return the schedules from `first` to `last` (inclusive) of one staff member or of all."""
        return self._read(_SCHEDULES, first=first, last=last, staff_id=staff_id)

    def find_availability(
        self, day: date, start: datetime, end: datetime, staff_id: int | None = None
    ) -> Sequence[Sequence[Any]]:
        """Return the availability of the bookable staff that works on `day`, one row per staff member.

        A row is `(staff id, working intervals, taken time ranges)`. Only taken ranges that overlap
        [start, end) are returned. One query, which repeats the index expressions of `booking_slots` so
        that PostgreSQL uses the index.
        """
        return self._reader.rows(
            _AVAILABILITY_SQL,
            company_id=self.tenant.company_id,
            day=day,
            start=start,
            end=end,
            staff_id=staff_id,
        )
