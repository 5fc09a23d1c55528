"""One of the worker processes that `frontdesk demo traffic` plays, and what it tells the command."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import httpx
import psutil

from app.config import Settings
from app.data_layer.result import Result
from app.errors import DRIVER_ERRORS
from app.frontdesk import Frontdesk, Salon
from app.observability import logs, sentry

CLIENT_COUNT, STAFF_COUNT = 500, 7
DAYS, HOURS = 14, range(9, 21)
SERVICE_NAME_PREFIX = "traffic"  # of the workers' sessions in pg_stat_activity: traffic-1, …
THREADS = 3
REPORT_INTERVAL_SECONDS = 1.0  # seconds
OPERATION_WEIGHTS = {"reads": 60, "session keys": 20, "upserts": 10, "bookings": 10}  # in a hundred

OK, TAKEN = "ok", "slot_taken"


@dataclass(frozen=True)
class WorkerTask:
    """What one worker is to do; `url` is where it asks for session keys, or None for the data layer."""

    settings: Settings
    number: int
    company_id: int
    rate: float  # operations a second
    url: str | None


@dataclass
class WorkerReport:
    """What happened since the last word: outcomes and milliseconds by operation; the process as it is."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations_ms: dict[str, list[float]] = field(default_factory=dict)
    connections: int | None = None  # of all workers, as the server counts them; the first worker asks
    memory_bytes: int = 0  # bytes
    open_files: int = 0  # open file handles


def phone_of(number: int) -> str:
    """The phone of a made-up client."""
    return f"+7968{number:07}"


def client_row(number: int) -> dict[str, object]:
    """A made-up client, changed a little each time."""
    return {
        "yclients_id": number + 1,
        "name": f"Client {number}",
        "phone": phone_of(number),
        "visit_count": random.randrange(50),
    }


def run_worker(task: WorkerTask, pipe: Connection) -> None:
    """Run in a process of its own until the command says stop, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody; the command decides
    settings = task.settings.model_copy(update={"service_name": f"{SERVICE_NAME_PREFIX}-{task.number}"})
    sentry.initialise(settings)
    logs.disable_last_resort_handler()
    with Frontdesk(settings) as desk, httpx.Client(trust_env=False, timeout=10) as http:
        worker = _TrafficWorker(task, desk, http)
        pipe.send(worker.collect_report())  # it is there
        threads = [threading.Thread(target=worker.run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            while not pipe.poll(REPORT_INTERVAL_SECONDS):
                pipe.send(worker.collect_report())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the command was killed: there is nobody left to work for
        worker.stopping.set()
        for thread in threads:
            thread.join()
        last = worker.collect_report()
    try:
        pipe.send(last)
    except (BrokenPipeError, ConnectionResetError):
        return


class _TrafficWorker:
    def __init__(self, task: WorkerTask, desk: Frontdesk, http: httpx.Client) -> None:
        self.stopping = threading.Event()
        self._task = task
        self._desk = desk
        self._http = http
        self._salon: Salon = desk.company(task.company_id)
        self._lock = threading.Lock()
        self._report = WorkerReport()
        self._process = psutil.Process(os.getpid())
        self._operations: dict[str, Callable[[], str]] = {
            "reads": self._read,
            "session keys": self._keys if task.url is None else self._keys_over_http,
            "upserts": self._upsert,
            "bookings": self._book,
        }

    def run(self) -> None:
        """Operations in their shares, evenly spaced; one that comes late is not made up for."""
        interval = THREADS / self._task.rate
        due = time.monotonic() + random.random() * interval
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            (name,) = random.choices([*OPERATION_WEIGHTS], [*OPERATION_WEIGHTS.values()])
            began = time.perf_counter()
            outcome = self._operations[name]()
            self._count(name, outcome, 1000 * (time.perf_counter() - began))
            due = max(due + interval, time.monotonic())

    def collect_report(self) -> WorkerReport:
        """What happened since the last call."""
        connections = self._connections() if self._task.number == 1 else None
        with self._lock:
            told, self._report = self._report, WorkerReport()
        told.connections = connections
        told.memory_bytes = self._process.memory_info().rss
        told.open_files = self._process.num_fds()
        return told

    def _count(self, name: str, outcome: str, milliseconds: float) -> None:
        with self._lock:
            self._report.outcomes[name, outcome] += 1
            self._report.durations_ms.setdefault(name, []).append(milliseconds)

    def _connections(self) -> int | None:
        """How many the server counts; None where it does not answer."""
        try:
            row = self._desk.database.read(
                lambda connection: connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
                    (f"{SERVICE_NAME_PREFIX}-%",),
                ).fetchone()
            )
        except DRIVER_ERRORS:
            return None
        return row and int(row[0])

    def _read(self) -> str:
        salon, phone = self._salon, phone_of(random.randrange(CLIENT_COUNT))
        day = datetime.now(UTC).date() + timedelta(days=random.randrange(1, DAYS))
        reads: list[Callable[[], Result[Any]]] = [
            lambda: salon.get_client_by_phone(phone),
            lambda: salon.get_upcoming_appointments(phone),
            lambda: salon.get_staff(),
            lambda: salon.search_clients_by_name("client 1"),
            lambda: salon.find_free_slots(day, 3600),
            lambda: salon.get_dialog_context(phone),
        ]
        return _outcome(random.choice(reads)())

    def _upsert(self) -> str:
        first = random.randrange(CLIENT_COUNT - 20)
        return _outcome(self._salon.upsert_clients([client_row(first + n) for n in range(20)]))

    def _book(self) -> str:
        """Book an hour; every other booking is called off again, so there is always room."""
        day = datetime.now(UTC) + timedelta(days=random.randrange(1, DAYS))
        start = day.replace(hour=random.choice(HOURS), minute=0, second=0, microsecond=0)
        staff_id = random.randrange(STAFF_COUNT) + 1
        client = client_row(random.randrange(CLIENT_COUNT))
        booked = self._salon.create_booking(
            client, {"staff_id": staff_id, "starts_at": start, "duration": 3600}
        )
        if booked.data is not None and random.random() < 0.5:
            return _outcome(self._salon.cancel_booking(booked.data.id))
        return _outcome(booked)

    def _new_keys(self) -> tuple[list[str], dict[str, dict[str, object]]]:
        ids = [f"{self._task.number}-{random.randrange(200)}.0" for _ in range(5)]
        return ids, {"session": {key: {"counter": random.randrange(10**6)} for key in ids}}

    def _keys(self) -> str:
        ids, keys = self._new_keys()
        written = self._salon.whatsapp.set_keys(keys)
        return _outcome(written if written.error else self._salon.whatsapp.get_keys("session", ids))

    def _keys_over_http(self) -> str:
        ids, keys = self._new_keys()
        token = self._task.settings.whatsapp_api_token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        path = f"{self._task.url}/whatsapp/{self._task.company_id}/keys"
        wanted = {"type": "session", "ids": ids}
        try:
            for step, body in (("set", keys), ("get", wanted)):
                answer = self._http.post(f"{path}/{step}", json=body, headers=headers)
                if answer.is_error:
                    return f"HTTP {answer.status_code}"
        except httpx.TransportError as error:
            return type(error).__name__
        return OK


def _outcome(result: Result[Any]) -> str:
    return OK if result.error is None else result.error.code
