"""A worker process of `frontdesk demo traffic`, and its reports to the command."""

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
SERVICE_NAME_PREFIX = "traffic"  # the workers' application_name in pg_stat_activity is traffic-1, …
THREADS = 3
REPORT_INTERVAL_SECONDS = 1.0
OPERATION_WEIGHTS = {"reads": 60, "session keys": 20, "upserts": 10, "bookings": 10}  # percent

OK, TAKEN = "ok", "slot_taken"


@dataclass(frozen=True)
class WorkerTask:
    """Parameters of a worker. `url` is the server for session keys; None: use the data layer."""

    settings: Settings
    number: int
    company_id: int
    rate: float  # operations per second
    url: str | None


@dataclass
class WorkerReport:
    """Outcomes and durations (ms) by operation since the previous report, and current resource usage."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations_ms: dict[str, list[float]] = field(default_factory=dict)
    connections: int | None = None  # of all workers, as counted by the server; reported by worker 1 only
    memory_bytes: int = 0
    open_files: int = 0


def phone_of(number: int) -> str:
    """Return the phone of a generated client."""
    return f"+7968{number:07}"


def client_row(number: int) -> dict[str, object]:
    """Return the row of a generated client, with a random visit count."""
    return {
        "yclients_id": number + 1,
        "name": f"Client {number}",
        "phone": phone_of(number),
        "visit_count": random.randrange(50),
    }


def run_worker(task: WorkerTask, pipe: Connection) -> None:
    """Run a worker in its own process until the command requests a stop or exits."""
    # Ctrl-C sends SIGINT to the whole process group, but the command stops the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = task.settings.model_copy(update={"service_name": f"{SERVICE_NAME_PREFIX}-{task.number}"})
    sentry.initialise(settings)
    logs.disable_last_resort_handler()
    with Frontdesk(settings) as desk, httpx.Client(trust_env=False, timeout=10) as http:
        worker = _TrafficWorker(task, desk, http)
        pipe.send(worker.collect_report())  # shows that the worker is ready
        threads = [threading.Thread(target=worker.run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            while not pipe.poll(REPORT_INTERVAL_SECONDS):
                pipe.send(worker.collect_report())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the command was killed
        worker.stopping.set()
        for thread in threads:
            thread.join()
        last = worker.collect_report()
    try:
        pipe.send(last)
    except (BrokenPipeError, ConnectionResetError):
        return


class _TrafficWorker:
    """Runs the operations of one worker process in several threads, and collects their results."""

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
        """Run random operations by weight at the task's rate. Delayed operations are not caught up."""
        interval = THREADS / self._task.rate
        due = time.monotonic() + random.random() * interval
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            (name,) = random.choices([*OPERATION_WEIGHTS], [*OPERATION_WEIGHTS.values()])
            began = time.perf_counter()
            outcome = self._operations[name]()
            self._count(name, outcome, 1000 * (time.perf_counter() - began))
            due = max(due + interval, time.monotonic())

    def collect_report(self) -> WorkerReport:
        """Return the report since the previous call, and start the next one."""
        connections = self._connections() if self._task.number == 1 else None
        with self._lock:
            report, self._report = self._report, WorkerReport()
        report.connections = connections
        report.memory_bytes = self._process.memory_info().rss
        report.open_files = self._process.num_fds()
        return report

    def _count(self, name: str, outcome: str, milliseconds: float) -> None:
        with self._lock:
            self._report.outcomes[name, outcome] += 1
            self._report.durations_ms.setdefault(name, []).append(milliseconds)

    def _connections(self) -> int | None:
        """Return the number of connections of all workers, or None if the server does not answer."""
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
        """Book an hour. Half of the bookings are cancelled at once, so that free slots remain."""
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
        key_query = {"type": "session", "ids": ids}
        try:
            for step, body in (("set", keys), ("get", key_query)):
                answer = self._http.post(f"{path}/{step}", json=body, headers=headers)
                if answer.is_error:
                    return f"HTTP {answer.status_code}"
        except httpx.TransportError as error:
            return type(error).__name__
        return OK


def _outcome(result: Result[Any]) -> str:
    return OK if result.error is None else result.error.code
