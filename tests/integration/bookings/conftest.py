"""Fixtures of the tests of bookings."""

from collections.abc import Callable

import psycopg
import pytest

from app import Settings
from app.data_layer import DataLayer

TABLES = ("clients", "bookings", "booking_services", "booking_slots")


@pytest.fixture
def count_rows(settings: Settings, salon: DataLayer) -> Callable[[], dict[str, int]]:
    """Return a function that counts the rows of `salon` in every table that a booking writes."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    def count() -> dict[str, int]:
        with psycopg.connect(url) as connection:
            return {
                table: connection.execute(
                    f"SELECT count(*) FROM {table} WHERE company_id = %s", (salon.company_id,)
                ).fetchone()[0]
                for table in TABLES
            }

    return count
