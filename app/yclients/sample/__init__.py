"""A small salon to look around in, as files that hold exactly what the YClients API would answer."""

import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

COMPANY_ID = 4564
ZONE = ZoneInfo("Europe/Moscow")
DAYS_BACK, DAYS_AHEAD = 14, 21  # days of schedules and bookings around today
OPENING_HOUR, CLOSING_HOUR = 10, 20

_FILES = Path(__file__).parent
_CHANCE_OF_A_VISIT = 0.5


def write_sample(folder: Path, today: date) -> list[Path]:
    """Write the salon's files into `folder` and name them; schedules and bookings lie around `today`."""
    random = Random(COMPANY_ID)  # noqa: S311 - the salon is always the same and not secret
    answers = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(_FILES.glob("*.json"))}
    days = [today + timedelta(days=n) for n in range(-DAYS_BACK, DAYS_AHEAD + 1)]
    working: dict[int, list[date]] = {}
    for member in answers["staff"]["data"]:
        if not member["fired"]:
            works = working[member["id"]] = [day for day in days if (day.toordinal() + member["id"]) % 4 < 3]
            answers[f"schedule_{member['id']}"] = _answer([_schedule(day, day in works) for day in days])
    answers["bookings"] = _answer(list(_bookings(answers, working, today, random)))
    paths = []
    for name, answer in answers.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(answer, ensure_ascii=False), "utf-8")
    return paths


def _answer(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {"success": True, "data": data, "meta": {"total_count": len(data)}}


def _schedule(day: date, works: bool) -> dict[str, Any]:
    slots = [{"from": f"{OPENING_HOUR}:00", "to": "14:00"}, {"from": "15:00", "to": f"{CLOSING_HOUR}:00"}]
    return {"date": day.isoformat(), "is_working": int(works), "slots": slots if works else []}


def _bookings(
    answers: dict[str, Any], working: dict[int, list[date]], today: date, random: Random
) -> Iterator[dict[str, Any]]:
    record = 700_000
    for staff_id, days in working.items():
        offered = [
            (service, performer["seance_length"])
            for service in answers["services"]["data"]
            for performer in service["staff"]
            if performer["id"] == staff_id
        ]
        for day in days:
            for hour in (OPENING_HOUR, OPENING_HOUR + 2, CLOSING_HOUR - 4, CLOSING_HOUR - 2):
                if random.random() < _CHANCE_OF_A_VISIT:
                    record += 1
                    service, length = random.choice(offered)
                    client = random.choice(answers["clients"]["data"])
                    start = datetime.combine(day, time(hour), ZONE)
                    yield _record(record, staff_id, start, length, service, client, day < today)


def _record(
    record: int,
    staff_id: int,
    start: datetime,
    length: int,
    service: dict[str, Any],
    client: dict[str, Any],
    is_over: bool,
) -> dict[str, Any]:
    made = start - timedelta(days=20)
    cost = service["price_min"]
    is_deleted = record % 17 == 0
    return {
        "id": record,
        "company_id": COMPANY_ID,
        "staff_id": staff_id,
        "services": [
            {
                "id": service["id"],
                "title": service["title"],
                "cost": cost,
                "cost_to_pay": cost,
                "manual_cost": cost,
                "first_cost": cost,
                "discount": 0,
                "amount": 1,
            }
        ],
        "client": {key: client[key] for key in ("id", "name", "phone", "email")} if record % 13 else None,
        "date": f"{start:%Y-%m-%d %H:%M:%S}",
        "datetime": start.isoformat(),
        "create_date": f"{made:%Y-%m-%dT%H:%M:%S%z}",
        "last_change_date": f"{made:%Y-%m-%dT%H:%M:%S%z}",
        "seance_length": length,
        "length": length,
        "attendance": (-1 if record % 11 == 0 else 1) if is_over else 2 * (record % 2),
        "visit_attendance": int(is_over),
        "confirmed": 1,
        "comment": "",
        "online": record % 3 == 0,
        "visit_id": str(record + 9_000),
        "api_id": "",
        "activity_id": 0,
        "deleted": is_deleted,
        "custom_fields": {},
    }
