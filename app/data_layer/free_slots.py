"""Computation of free slots: the schedule in the salon's local time minus the taken slots."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

TimeRange = tuple[datetime, datetime]  # UTC, [start, end)


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """A free slot of a member of staff (YClients id), in UTC."""

    staff_id: int
    starts_at: datetime
    ends_at: datetime


def local_day(day: date, zone: ZoneInfo) -> TimeRange:
    """Return the salon's local day in UTC. It has 23 or 25 hours when the clocks change."""
    return _instant(day, "00:00", zone), _instant(day, "24:00", zone)


def free_starts(
    day: date,
    zone: ZoneInfo,
    intervals: Iterable[Mapping[str, str]],
    taken: Sequence[TimeRange],
    duration: timedelta,
    step: timedelta,
) -> list[datetime]:
    """Return the possible starts of a booking of `duration`, every `step` from the start of each interval."""
    starts = []
    for begin, end in _working_hours(day, zone, intervals):
        start = begin
        while start + duration <= end:
            if all(start + duration <= busy_from or busy_to <= start for busy_from, busy_to in taken):
                starts.append(start)
            start += step
    return starts


def _working_hours(day: date, zone: ZoneInfo, intervals: Iterable[Mapping[str, str]]) -> list[TimeRange]:
    """Return the intervals in UTC, in order. Adjacent and overlapping intervals are joined."""
    joined: list[TimeRange] = []
    for begin, end in sorted(
        (_instant(day, i["from"], zone), _instant(day, i["to"], zone)) for i in intervals
    ):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _instant(day: date, clock: str, zone: ZoneInfo) -> datetime:
    if clock == "24:00":
        day, clock = day + timedelta(days=1), "00:00"
    return datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)
