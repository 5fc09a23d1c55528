"""Operations on staff and schedules."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import (
    Operations,
    validate_date,
    validate_flag,
    validate_id,
    validate_ids,
    validate_optional_id,
)
from app.errors import InvalidInputError
from app.models import Staff, StaffSchedule
from app.repositories.batch_dedup import UpsertReport


class StaffOperations(Operations):
    """Operations on staff and schedules. Staff ids are YClients ids."""

    @operation(Staff)
    def get_staff(self, include_inactive: bool = False) -> list[Staff]:
        """Return the active members of staff, or all with `include_inactive`, by weight and name."""
        return list(
            self._read_only_repositories.staff.find_staff(validate_flag("include_inactive", include_inactive))
        )

    @operation(Staff)
    def get_staff_by_id(self, id: int) -> Staff | None:
        """Return the member of staff with this YClients id, or None."""
        return self._read_only_repositories.staff.find_by_ids([validate_id("id", id)])[0]

    @operation(Staff)
    def get_staff_by_ids(self, ids: Sequence[int]) -> list[Staff | None]:
        """Return the staff with these YClients ids in the order of `ids`, None for missing ones."""
        return self._read_only_repositories.staff.find_by_ids(validate_ids("ids", ids))

    @operation(Staff)
    def upsert_staff(self, rows: Iterable[Mapping[str, Any]]) -> UpsertReport:
        """Insert or update many members of staff. The report lists invalid rows."""
        return self._upsert_all(lambda repositories: repositories.staff, rows)

    @operation(StaffSchedule)
    def get_staff_schedules(
        self, date_from: date, date_to: date, staff_id: int | None = None
    ) -> list[StaffSchedule]:
        """Return the schedules of the salon's local dates from `date_from` to `date_to`, both inclusive."""
        first, last = validate_date("date_from", date_from), validate_date("date_to", date_to)
        if last < first:
            raise InvalidInputError(fields={"date_to": "is before date_from"})
        schedules = self._read_only_repositories.staff_schedules
        return list(schedules.between(first, last, validate_optional_id("staff_id", staff_id)))

    @operation(StaffSchedule)
    def get_staff_schedule(self, staff_id: int, date: date) -> StaffSchedule | None:
        """Return the schedule of a member of staff on a local date, or None."""
        day = validate_date("date", date)
        schedules = self._read_only_repositories.staff_schedules.between(
            day, day, validate_id("staff_id", staff_id)
        )
        return schedules[0] if schedules else None

    @operation(StaffSchedule)
    def upsert_staff_schedules(self, rows: Iterable[Mapping[str, Any]]) -> UpsertReport:
        """Insert or update schedules by `staff_id` and `date`. The report lists invalid rows."""
        return self._upsert_all(lambda repositories: repositories.staff_schedules, rows)
