"""A salon in the fake YClients API, and a Frontdesk that syncs with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.demo.fake_yclients.salon import FakeSalon, RowCounts
from app.demo.fake_yclients.server import PARTNER_TOKEN, USER_TOKEN, FakeYClients, run_server
from app.yclients.api.client import YClientsClient
from app.yclients.api.rate_limit import RateLimit, RateLimiter
from app.yclients.syncing.run import sync
from app.yclients.syncing.summary import SyncSummary

SMALL = RowCounts(clients=250, staff=5, services=12, categories=3, records=320)  # long lists take two pages
UNLIMITED = (RateLimit(1000, 0.1),)
FAST_BACKOFF_SECONDS = 0.01  # before the second attempt

# Columns to compare between two databases: all except Frontdesk's own ids and times.
COMPARED = {
    "companies": "title, timezone, country, phone, address, deleted_at IS NULL",
    "service_categories": "yclients_id, title, weight, deleted_at IS NULL",
    "services": "yclients_id, title, category_id, price_min, price_max, duration, is_active,"
    " deleted_at IS NULL",
    "service_staff": "service_id, staff_id, duration",
    "staff": "yclients_id, name, position, rating, is_active, is_bookable, deleted_at IS NULL",
    "clients": "yclients_id, name, surname, phone, email, birth_date, importance, discount, visit_count,"
    " total_spent, search_name, source, source_changed_at, deleted_at IS NULL",
    "staff_schedules": "staff_id, date, is_working, intervals, deleted_at IS NULL",
    "bookings": "yclients_record_id, client_id, client_phone, client_name, staff_id, starts_at, ends_at,"
    " attendance, status, price, source, source_changed_at, pending_since, deleted_at",
    "booking_services": "(SELECT yclients_record_id FROM bookings AS b WHERE b.company_id = t.company_id"
    " AND b.id = t.booking), position, service_id, title, amount, cost, discount",
    "booking_slots": "(SELECT yclients_record_id FROM bookings AS b WHERE b.company_id = t.company_id"
    " AND b.id = t.booking), staff_id, during",
}


class Upstream:
    """A salon at YClients and in Frontdesk: `salon` has its rows in the fake API, `desk` is the Frontdesk."""

    def __init__(self, desk: Frontdesk, fake: FakeYClients) -> None:
        self.desk = desk
        self.fake = fake
        self.salon = fake.salon
        self.company_id = fake.salon.company_id

    @property
    def data_layer(self) -> DataLayer:
        return self.desk.company(self.company_id)

    def client(self) -> YClientsClient:
        limiter = RateLimiter(self.desk.database, self.desk.settings.yclients_base_url, UNLIMITED)
        return YClientsClient(self.desk.settings, limiter, initial_backoff=FAST_BACKOFF_SECONDS)

    def sync(self, **options: Any) -> SyncSummary:
        return sync(self.desk, self.company_id, **{"client": self.client(), **options})

    def requests(self, part: str) -> list[str]:
        """Return the requests to YClients so far whose URL contains `part`."""
        return [request for request in self.fake.request_log if part in request]

    def rows(self) -> dict[str, list[Any]]:
        return rows_of(self.desk.database._url, self.company_id)


@contextmanager
def upstream_of(settings: Settings, salon: FakeSalon) -> Iterator[Upstream]:
    """Serve the salon with a fake YClients API, and open a Frontdesk that is configured to use it."""
    fake = FakeYClients(salon, UNLIMITED)
    with run_server(fake) as address, Frontdesk(with_yclients_settings(settings, address)) as desk:
        yield Upstream(desk, fake)


def with_yclients_settings(settings: Settings, address: str) -> Settings:
    """Return a copy of the settings with the URL and the tokens of the fake API."""
    values = settings.model_dump(exclude_unset=True) | {
        "yclients_base_url": address,
        "yclients_partner_token": PARTNER_TOKEN,
        "yclients_user_token": USER_TOKEN,
    }
    return Settings(**values)


def rows_of(url: str, company_id: int) -> dict[str, list[Any]]:
    """Return a company's rows by table, as sorted JSON of the columns in COMPARED."""
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(
                f"SELECT to_jsonb(r)::text FROM (SELECT {columns} FROM {table} AS t"  # type: ignore[arg-type]
                " WHERE company_id = %s) AS r ORDER BY 1",
                (company_id,),
            ).fetchall()
            for table, columns in COMPARED.items()
        }
