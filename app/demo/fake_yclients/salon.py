"""A generated salon with payloads like those of YClients, including their inconsistent types and formats.

The same seed generates the same salon.
"""

import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

Payload = dict[str, Any]

ZONE = ZoneInfo("Europe/Moscow")
FIRST_CLIENT, FIRST_RECORD = 10_000_000, 500_000_000
FIRST_STAFF, FIRST_SERVICE, FIRST_CATEGORY = 80_000, 300_000, 7_000
DAYS_BACK, DAYS_AHEAD = 60, 30  # range of the records' dates, relative to today

NAMES = ("Анна", "Мария", "Ольга", "Елена", "Ирина", "Наталья", "Татьяна", "Дарья", "Юлия", "Алёна")
SURNAMES = ("Иванова", "Петрова", "Сидорова", "Кузнецова", "Попова", "Смирнова", "Ёлкина", "Волкова")
SERVICE_TITLES = ("Стрижка", "Окрашивание", "Маникюр", "Педикюр", "Укладка", "Массаж", "Брови", "Ресницы")
POSITIONS = ("Парикмахер", "Колорист", "Мастер маникюра", "Косметолог", "Массажист")


@dataclass(frozen=True)
class RowCounts:
    """Number of rows of each entity."""

    clients: int = 20_000
    staff: int = 60
    services: int = 400
    categories: int = 20
    records: int = 30_000


class FakeSalon:
    """The payloads of a salon, by collection and id. Change them with `put` and `delete`, or under `lock`."""

    def __init__(
        self, company_id: int, sizes: RowCounts | None = None, seed: int = 1, today: date | None = None
    ) -> None:
        self.company_id = company_id
        self.lock = threading.RLock()
        sizes = sizes or RowCounts()
        maker = _RowGenerator(company_id, sizes, Random(seed), today or datetime.now(ZONE).date())  # noqa: S311 - no secret
        self.company = maker.company()
        self.collections: dict[str, dict[int, Payload]] = {
            "service_categories": {row["id"]: row for row in maker.categories()},
            "services": {int(row["id"]): row for row in maker.services()},
            "staff": {row["id"]: row for row in maker.staff()},
            "clients": {int(row["id"]): row for row in maker.clients()},
            "records": {row["id"]: row for row in maker.records()},
        }
        # Schedule days that replace the generated ones, by staff id and ISO date.
        self.schedule_overrides: dict[tuple[int, str], Payload] = {}

    def put(self, collection: str, row_id: int, **values: Any) -> Payload:
        """Update or add a row and return it. `last_change_date` is set to now unless it is in `values`."""
        with self.lock:
            row = self.collections[collection].setdefault(row_id, {"id": row_id})
            row.update({"last_change_date": format_timestamp(datetime.now(UTC)), **values})
            return row

    def delete(self, collection: str, row_id: int) -> None:
        """Delete a row as YClients does: mark a record as deleted, and remove rows of other collections."""
        with self.lock:
            if collection == "records":
                self.put(collection, row_id, deleted=True)
            else:
                del self.collections[collection][row_id]

    def schedule(self, staff_id: int, first: date, last: date) -> list[Payload]:
        """Return the schedule of a member of staff for each day from `first` to `last`, inclusive."""
        dates = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        with self.lock:
            return [
                self.schedule_overrides.get((staff_id, day.isoformat())) or _usual_day(staff_id, day)
                for day in dates
            ]


def format_timestamp(moment: datetime) -> str:
    """Format a time as YClients does, for example `2019-01-16T20:35:15+0300`."""
    return moment.astimezone(ZONE).strftime("%Y-%m-%dT%H:%M:%S%z")


def _usual_day(staff_id: int, day: date) -> Payload:
    if (staff_id + day.toordinal()) % 7 >= 5:
        return {"date": day.isoformat(), "is_working": 0, "slots": []}
    slots = [{"from": "10:00", "to": "14:00"}, {"from": "15:00", "to": "20:00"}]
    return {"date": day.isoformat(), "is_working": 1, "slots": slots}


class _RowGenerator:
    """Generates payloads; as in real ones, types and formats of a field vary between rows."""

    def __init__(self, company_id: int, sizes: RowCounts, random: Random, today: date) -> None:
        self._company_id = company_id
        self._sizes = sizes
        self._random = random
        self._midnight = datetime.combine(today, time(), ZONE)

    def company(self) -> Payload:
        return {
            "id": self._company_id,
            "title": "Салон «Пример»",
            "country": "Россия",
            "city": "Москва",
            "timezone": "Europe/Moscow",
            "address": "ул. Примерная, 1",
            "phone": "+7 495 123-45-67",
            "coordinate_lat": "55.75",
            "coordinate_lon": 37.61,
        }

    def categories(self) -> list[Payload]:
        return [
            {
                "id": FIRST_CATEGORY + n,
                "title": f"{SERVICE_TITLES[n % len(SERVICE_TITLES)]} {n + 1}",
                "weight": self._inconsistent_number(n),
            }
            for n in range(self._sizes.categories)
        ]

    def services(self) -> list[Payload]:
        return [self._service(n) for n in range(self._sizes.services)]

    def _service(self, n: int) -> Payload:
        price = self._random.randrange(5, 80) * 100
        performers = self._random.sample(range(self._sizes.staff), min(3, self._sizes.staff))
        return {
            "id": self._inconsistent_number(FIRST_SERVICE + n),
            "salon_service_id": FIRST_SERVICE + n,
            "title": f"{SERVICE_TITLES[n % len(SERVICE_TITLES)]} №{n + 1}",
            "category_id": FIRST_CATEGORY + n % max(1, self._sizes.categories),
            "price_min": self._inconsistent_money(price),
            "price_max": self._inconsistent_money(price + 500),
            "discount": 0,
            "comment": "",
            "weight": n,
            "active": self._inconsistent_flag(n % 20 != 19),
            "api_id": "",
            "staff": [
                {"id": FIRST_STAFF + performer, "seance_length": self._random.choice((1800, 3600, 5400))}
                for performer in performers
            ],
        }

    def staff(self) -> list[Payload]:
        return [
            {
                "id": FIRST_STAFF + n,
                "company_id": self._company_id,
                "name": f"{NAMES[n % len(NAMES)]} {SURNAMES[n % len(SURNAMES)]}",
                "specialization": POSITIONS[n % len(POSITIONS)].lower(),
                "position": {"id": n % len(POSITIONS) + 1, "title": POSITIONS[n % len(POSITIONS)]}
                if n % 7
                else [],
                "weight": n,
                "rating": self._random.choice((4.5, "4.75", 5, 0)),
                "votes_count": n,
                "show_rating": 1,
                "avatar": "",
                "fired": self._inconsistent_flag(n % 20 == 19),
                "hidden": self._inconsistent_flag(n % 20 == 9),
                "status": 0,
            }
            for n in range(self._sizes.staff)
        ]

    def clients(self) -> list[Payload]:
        return [self._client(n) for n in range(self._sizes.clients)]

    def _client(self, n: int) -> Payload:
        visits = self._random.randrange(20)
        return {
            "id": self._inconsistent_number(FIRST_CLIENT + n),
            "name": self._name(n),
            "surname": SURNAMES[n % len(SURNAMES)] if n % 3 else "",
            "patronymic": None,
            "phone": self._phone(n),
            "email": f"client{n}@example.com" if n % 4 == 0 else "",
            "categories": [],
            "sex": "Женский",
            "discount": self._random.choice((0, "5", 10)),
            "importance": self._random.choice(("", "Бронза", "Золото")),
            "card": "",
            "birth_date": self._random.choice(("1970-01-01", "", "1990-05-14", "1985-12-31")),
            "comment": "",
            "spent": self._inconsistent_money(visits * 1300),
            "balance": "0.00",
            "visits": self._inconsistent_number(visits),
            "last_change_date": self._random_change_time(),
            "custom_fields": self._random.choice(({}, [])),
        }

    def records(self) -> list[Payload]:
        return [self._record(n) for n in range(self._sizes.records)]

    def _record(self, n: int) -> Payload:
        starts_at = self._midnight + timedelta(
            days=self._random.randrange(-DAYS_BACK, DAYS_AHEAD), minutes=15 * self._random.randrange(40, 76)
        )
        cost = self._random.randrange(5, 80) * 100
        attendance = self._random.choice((1, 1, 1, -1)) if starts_at < self._midnight else 0
        length = self._random.choice((1800, 3600, 5400))
        service = self._random.randrange(max(1, self._sizes.services))
        staff_id = FIRST_STAFF + self._random.randrange(max(1, self._sizes.staff))
        return {
            "id": FIRST_RECORD + n,
            "company_id": self._company_id,
            "staff_id": self._inconsistent_number(staff_id),
            "staff": {"id": staff_id},
            "client": self._client_of_record(n),
            "services": [
                {
                    "id": FIRST_SERVICE + service,
                    "title": f"{SERVICE_TITLES[service % len(SERVICE_TITLES)]} №{service + 1}",
                    "cost": self._inconsistent_money(cost),
                    "cost_to_pay": cost,
                    "first_cost": cost,
                    "manual_cost": cost,
                    "discount": 0,
                    "amount": 1,
                }
            ],
            "date": starts_at.strftime("%Y-%m-%d %H:%M:%S"),
            "datetime": starts_at.isoformat(),
            "create_date": self._random_change_time(),
            "last_change_date": self._random_change_time(),
            "seance_length": self._inconsistent_number(length),
            "length": length,
            "attendance": attendance,
            "visit_attendance": attendance,
            "confirmed": 1,
            "comment": "",
            "online": self._inconsistent_flag(n % 2 == 0),
            "visit_id": self._inconsistent_number(900_000_000 + n),
            "api_id": "",
            "activity_id": 0,
            "deleted": self._inconsistent_flag(n % 33 == 32),
            "paid_full": 0,
            "prepaid": False,
            "record_labels": [],
            "custom_fields": self._random.choice(({}, [])),
        }

    def _client_of_record(self, n: int) -> Payload | None:
        if n % 50 == 49:
            return self._random.choice((None, {}))
        # About 1 % of the records name a deleted client.
        client = self._random.randrange(int(self._sizes.clients * 1.01) + 1)
        return {
            "id": FIRST_CLIENT + client,
            "name": self._name(client),
            "phone": self._phone(client),
            "email": "",
        }

    # Inconsistent values

    def _inconsistent_number(self, value: int) -> int | str:
        return self._random.choice((value, value, str(value)))

    def _inconsistent_money(self, value: int) -> int | float | str:
        return self._random.choice((value, float(value), f"{value}.00"))

    def _inconsistent_flag(self, value: bool) -> bool | int | str:
        return self._random.choice((value, int(value), str(int(value))))

    def _random_change_time(self) -> str:
        return format_timestamp(
            self._midnight - timedelta(minutes=self._random.randrange(1, DAYS_BACK * 24 * 60))
        )

    @staticmethod
    def _name(n: int) -> str:
        return f"{NAMES[n % len(NAMES)]} {n}"

    @staticmethod
    def _phone(n: int) -> str:
        digits = f"9{n % 10**9:09}"
        formats = (
            f"+7{digits}",
            f"8 ({digits[:3]}) {digits[3:6]}-{digits[6:8]}-{digits[8:]}",
            f"7{digits}",
            f"+7 {digits[:3]} {digits[3:6]} {digits[6:8]} {digits[8:]}",
        )
        return "" if n % 97 == 96 else formats[n % len(formats)]
