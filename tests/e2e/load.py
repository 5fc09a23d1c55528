"""Load on a served Frontdesk: writers that note what was acknowledged, probes that note their time."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psycopg

from tests.stopwatch import Stopwatch

COMPANY_ID = 962302
PROBES = ("/health", "/health/live", "/health/ready", "/health/database")
# What the service promises is a second; half another is for a machine that is busy with the tests.
MAX_PROBE_SECONDS = 1.5


@dataclass
class Load:
    """What came of it so far."""

    acknowledged: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    probes: list[tuple[str, int, float]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    broken: list[float] = field(default_factory=list)  # when writes began that were under way and broke off
    last_success: float = 0.0

    def success_since(self, moment: float) -> bool:
        return self.last_success > moment

    def assert_probes_were_answered(self) -> None:
        """All of them, in time, and those of the process with 200 whatever the database did."""
        assert self.unanswered == []
        assert max(seconds for _, _, seconds in self.probes) < MAX_PROBE_SECONDS
        assert {code for path, code, _ in self.probes if path in ("/health", "/health/live")} == {200}
        assert {code for _, code, _ in self.probes} <= {200, 503}

    def assert_nothing_was_lost(self, database_url: str) -> None:
        """Every acknowledged write is in the database."""
        with psycopg.connect(database_url) as connection:
            rows = connection.execute("SELECT key_id FROM whatsapp_keys WHERE company_id = %s", (COMPANY_ID,))
            stored = {key for (key,) in rows}
        assert self.acknowledged
        assert self.acknowledged <= stored


@contextmanager
def under_load(address: str, writers: int = 6) -> Iterator[Load]:
    """Writers and probes at work during the `with` block."""
    load, stopping = Load(), threading.Event()
    numbers = itertools.count()

    def write(http: httpx.Client) -> None:
        key = f"{next(numbers)}.0"
        began = time.monotonic()
        answer = http.post(
            f"{address}/whatsapp/{COMPANY_ID}/keys/set", json={"session": {key: {"counter": 1}}}, timeout=30
        )
        if answer.status_code == 204:
            load.acknowledged.add(key)
            load.last_success = began
        else:
            load.refused.append(f"{answer.status_code} {answer.json()['error']['code']}")
            time.sleep(0.05)

    def probe(http: httpx.Client) -> None:
        for path in PROBES:
            with Stopwatch() as watch:
                try:
                    code = http.get(address + path, timeout=10).status_code
                except httpx.TransportError as error:
                    load.unanswered.append(f"{path}: {type(error).__name__}")
                    continue
            load.probes.append((path, code, watch.seconds))
        time.sleep(0.2)

    def repeat(step: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(trust_env=False) as http:
            while not stopping.is_set():
                began = time.monotonic()
                try:
                    step(http)
                except httpx.TransportError as error:  # not acknowledged; a probe's is noted by itself
                    if not isinstance(error, httpx.ConnectError):
                        load.broken.append(began)
                    time.sleep(0.05)

    threads = [threading.Thread(target=repeat, args=(step,)) for step in [write] * writers + [probe]]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
