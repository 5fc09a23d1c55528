"""Load on a running Frontdesk: writers record acknowledged writes, and health probes record their times."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psycopg

from tests.processes import TLS
from tests.stopwatch import Stopwatch

COMPANY_ID = 962302
PROBES = ("/health", "/health/live", "/health/ready", "/health/database")
# The service promises one second; the other half second allows for a machine busy with tests.
MAX_PROBE_SECONDS = 1.5
WRITE_PAUSE_SECONDS = 0.02  # without pauses, the writers would use most of the machine


@dataclass
class Load:
    """Results of the load so far. Times are those of time.monotonic()."""

    acknowledged: set[str] = field(default_factory=set)  # ids of stored keys
    refused: list[str] = field(default_factory=list)  # HTTP status and error code
    probes: list[tuple[str, int, float]] = field(default_factory=list)  # path, HTTP status, seconds
    unanswered: list[str] = field(default_factory=list)  # path and exception of failed probes
    broken: list[float] = field(default_factory=list)  # start times of writes whose connection broke
    last_success: float = 0.0  # start time of the last acknowledged write

    def success_since(self, moment: float) -> bool:
        """Return True if a write that began after `moment` was acknowledged."""
        return self.last_success > moment

    def assert_probes_were_answered(self) -> None:
        """Assert that all probes were answered in time, and probes of the process always with 200."""
        assert self.unanswered == []
        assert max(seconds for _, _, seconds in self.probes) < MAX_PROBE_SECONDS
        assert {code for path, code, _ in self.probes if path in ("/health", "/health/live")} == {200}
        assert {code for _, code, _ in self.probes} <= {200, 503}

    def assert_nothing_was_lost(self, database_url: str) -> None:
        """Assert that every acknowledged write is in the database."""
        with psycopg.connect(database_url) as connection:
            rows = connection.execute("SELECT key_id FROM whatsapp_keys WHERE company_id = %s", (COMPANY_ID,))
            stored = {key for (key,) in rows}
        assert self.acknowledged
        assert self.acknowledged <= stored


@contextmanager
def under_load(address: str, writers: int = 6) -> Iterator[Load]:
    """Run writers and probes during the `with` block; yield their results."""
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
            time.sleep(WRITE_PAUSE_SECONDS)
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
        with httpx.Client(trust_env=False, verify=TLS) as http:
            while not stopping.is_set():
                began = time.monotonic()
                try:
                    step(http)
                except httpx.TransportError as error:  # of a write; `probe` records its own
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
