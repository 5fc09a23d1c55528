"""With a thousand salons, health checks stay fast, and clean-up does not block writers."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from app import Frontdesk, Settings
from app.web import create_app
from app.whatsapp.cleanup import clean_up

SALONS, KEYS, EXPIRED = 1000, 728, 128

pytestmark = pytest.mark.full


@pytest.fixture
def large(database_url: str) -> Iterator[Frontdesk]:
    """Create a thousand paired salons with 728 keys each, of which 128 are due for clean-up."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO companies (company_id, title) SELECT n, 'Salon' FROM generate_series(1, %s) AS n",
            (SALONS,),
        )
        connection.execute(
            "INSERT INTO whatsapp_auth (company_id, creds) SELECT company_id, '{}' FROM companies"
        )
        for key_type, count, expires in (
            ("pre-key", KEYS - EXPIRED, "NULL"),
            ("device-list", EXPIRED, "now() - interval '8 days'"),
        ):
            connection.execute(
                "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value, expires_at)"
                f" SELECT company_id, %s, n::text, convert_to(repeat('x', 170), 'UTF8'), {expires}"
                " FROM companies, generate_series(1, %s) AS n",
                (key_type, count),
            )
    with Frontdesk(Settings(database_url=SecretStr(database_url))) as desk:
        yield desk


def test_health_responds_within_200_ms_with_728_000_keys(large: Frontdesk) -> None:
    client = create_app(large).test_client()
    client.get("/health/whatsapp")
    times = []
    for _ in range(5):
        time.sleep(1.1)  # longer than the cached result is used
        began = time.perf_counter()
        document = client.get("/health/whatsapp").json
        times.append(time.perf_counter() - began)
        assert document["total_keys"] == SALONS * KEYS
    assert sorted(times)[len(times) // 2] < 0.2, times


def test_clean_up_takes_less_than_a_minute_and_delays_no_write_by_50_ms(large: Frontdesk) -> None:
    waits: list[float] = []
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            store = large.company(number * 37 % SALONS + 1).whatsapp
            keys = {"device-list": {"1": ["0"], "77": ["0", str(number)]}, "session": {"a": number}}
            began = time.perf_counter()
            store.set_keys(keys).unwrap()
            waits.append(time.perf_counter() - began)

    writer = threading.Thread(target=write)
    writer.start()
    began = time.perf_counter()
    try:
        deleted = clean_up(large.settings).deleted.total()
    finally:
        is_over.set()
        writer.join()
    assert time.perf_counter() - began < 60
    assert deleted > SALONS * (EXPIRED - 2)
    assert len(waits) > 20
    # The longest delay is ignored: a busy machine delays a write now and then, even without clean-up.
    assert sorted(waits)[-2] < 0.05, sorted(waits)[-5:]
