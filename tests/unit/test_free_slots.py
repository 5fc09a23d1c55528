"""Free slots compared with a model that checks every quarter of an hour of a day."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.data_layer.free_slots import TimeRange, free_starts, local_day

QUARTER = timedelta(minutes=15)
# Time zones, each with a day on which its clocks change, or with any day if they never change.
ZONES = [
    ("Europe/Moscow", date(2026, 12, 1)),
    ("America/New_York", date(2027, 3, 14)),
    ("America/New_York", date(2027, 11, 7)),
    ("Australia/Lord_Howe", date(2027, 4, 4)),
    ("Australia/Lord_Howe", date(2027, 10, 3)),
    ("Asia/Kathmandu", date(2027, 5, 5)),
    ("Europe/Berlin", date(2027, 3, 28)),
    ("Asia/Beirut", date(2027, 3, 28)),
    ("Pacific/Chatham", date(2027, 9, 26)),
    ("Pacific/Apia", date(2027, 5, 5)),
]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Moscow", date(2026, 12, 1), 24),
        ("America/New_York", date(2027, 3, 14), 23),
        ("America/New_York", date(2027, 11, 7), 25),
        ("Australia/Lord_Howe", date(2027, 4, 4), 24.5),
        ("Australia/Lord_Howe", date(2027, 10, 3), 23.5),
        ("Asia/Beirut", date(2027, 3, 28), 23),
    ],
)
def test_a_local_day_is_shorter_or_longer_when_the_clocks_change(zone: str, day: date, hours: float) -> None:
    start, end = local_day(day, ZoneInfo(zone))
    assert end - start == timedelta(hours=hours)


def test_a_salons_day_begins_at_local_midnight() -> None:
    start, _ = local_day(date(2026, 12, 1), ZoneInfo("Asia/Kathmandu"))
    assert start == datetime(2026, 11, 30, 18, 15, tzinfo=UTC)


def clock(quarters: int) -> str:
    return f"{quarters // 4:02}:{quarters % 4 * 15:02}"


@st.composite
def working_days(draw: st.DrawFn) -> tuple[str, date, list[dict[str, str]], list[TimeRange]]:
    """Draw a time zone, a day, working intervals, and taken times of any length on or near that day."""
    zone, day = draw(st.sampled_from(ZONES))
    bounds = draw(st.lists(st.integers(0, 96), max_size=6, unique=True).map(sorted))
    intervals = [
        {"from": clock(start), "to": clock(end)}
        for start, end in zip(bounds[::2], bounds[1::2], strict=False)
    ]
    midnight = local_day(day, ZoneInfo(zone))[0]
    taken = [
        (midnight + timedelta(minutes=start), midnight + timedelta(minutes=start + length))
        for start, length in draw(
            st.lists(st.tuples(st.integers(-200, 1500), st.integers(1, 300)), max_size=6)
        )
    ]
    return zone, day, intervals, taken


def is_skipped_or_repeated(day: date, wall: str, zone: ZoneInfo) -> bool:
    """Return True if the wall clock of the zone never shows this time on the day, or shows it twice."""
    if wall == "24:00":
        return False
    local = datetime.combine(day, datetime.strptime(wall, "%H:%M").time(), zone)  # noqa: DTZ007 - a wall clock
    return local.utcoffset() != local.replace(fold=1).utcoffset()


@settings(max_examples=300)
@given(working_days(), st.integers(1, 12))
def test_free_starts_lie_in_working_intervals_and_overlap_no_taken_time(
    case: tuple[str, date, list[dict[str, str]], list[TimeRange]], quarters: int
) -> None:
    zone_name, day, intervals, taken = case
    zone = ZoneInfo(zone_name)
    intervals = [
        i for i in intervals if not any(is_skipped_or_repeated(day, wall, zone) for wall in i.values())
    ]
    duration = quarters * QUARTER

    def works_at(moment: datetime) -> bool:
        local = moment.astimezone(zone)
        wall = local.strftime("%H:%M")
        return local.date() == day and any(i["from"] <= wall < i["to"] for i in intervals)

    start, end = local_day(day, zone)
    expected = []
    while start < end:
        minutes = [start + timedelta(minutes=n) for n in range(0, quarters * 15, 5)]
        if all(map(works_at, minutes)) and not any(
            start < busy_to and busy_from < start + duration for busy_from, busy_to in taken
        ):
            expected.append(start)
        start += QUARTER
    assert free_starts(day, zone, intervals, taken, duration, QUARTER) == expected


def test_adjacent_intervals_are_joined() -> None:
    intervals = [{"from": "12:00", "to": "14:00"}, {"from": "10:00", "to": "12:00"}]
    starts = free_starts(
        date(2026, 12, 1), ZoneInfo("UTC"), intervals, [], timedelta(hours=3), timedelta(hours=1)
    )
    assert [start.hour for start in starts] == [10, 11]


def test_steps_count_from_the_start_of_each_interval() -> None:
    intervals = [{"from": "10:10", "to": "11:00"}]
    starts = free_starts(
        date(2026, 12, 1), ZoneInfo("UTC"), intervals, [], timedelta(minutes=20), timedelta(minutes=20)
    )
    assert [f"{start:%H:%M}" for start in starts] == ["10:10", "10:30"]
