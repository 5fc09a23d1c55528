"""`frontdesk transfer demo`: a transfer with cutover and rollback under load, on two temporary servers."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Event
from typing import Any

import click

from app.cli import console
from app.config import Settings
from app.data_layer import DataLayer
from app.database import embedded_server
from app.frontdesk import Frontdesk
from app.migrations import runner
from app.observability import logs
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import AbortedError, change_live_side
from app.transfer.finish import finish
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from app.transfer.verification.verify import verify

CLIENT_COUNT = 20_000  # rows on legacy before the transfer
ROWS_PER_MERGE = 200  # rows of each bulk merge by the "merges" writer
WRITER_KINDS = ("one client after the other", "one client after the other", "merges")
WRITE_PHASE_SECONDS = 5.0  # duration of writing between the steps
REPORT_INTERVAL_SECONDS = 0.1
MAX_CUTOVER_ATTEMPTS = 5  # a cutover or rollback aborts if its pause exceeds the limit

# "spawn", because threads of the data layer do not survive a fork.
_processes = multiprocessing.get_context("spawn")


@dataclass
class WriterReport:
    """Totals of a writer, and `longest_wait`, its longest write in seconds since the previous report."""

    acknowledged: int = 0
    lost: int = 0
    errors: int = 0
    longest_wait: float = 0.0


@dataclass
class LiveSideChange:
    """A change of the live side: the pause, and the longest wait of a writer, in milliseconds."""

    to: SideName
    pause: float
    longest_wait: float


@dataclass
class Demo:
    """Result of the demo. `lost` counts acknowledged writes that the writer's next read did not return."""

    switches: list[LiveSideChange] = field(default_factory=list)
    writes: int = 0
    lost: int = 0
    errors: int = 0
    equal: bool = False
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """True if no write was lost or failed and both sides are equal at the end."""
        return self.equal and not self.lost and not self.errors


@click.command("demo")
@console.json_option
@click.pass_context
def demo_command(ctx: click.Context, as_json: bool) -> None:
    """Run a transfer with a cutover and a rollback while writers are active; it takes about a minute.

    The demo starts two embedded servers and removes them: configured databases are not used. Exit code 1 if a
    write was lost or failed, or the sides differ at the end; this would be a bug.
    """
    screen = console.screen()
    logs.disable_last_resort_handler()

    def say(line: str) -> None:
        if not as_json:
            screen.print(line)

    demo = run_demo(say)
    if as_json:
        console.print_json(asdict(demo) | {"well": demo.succeeded})
    else:
        style = "bold green" if demo.succeeded else "bold red"
        pauses = " and ".join(f"{change.pause:,.0f} ms" for change in demo.switches)
        screen.print(
            f"\n{demo.writes:,} writes were acknowledged, {demo.lost} lost, {demo.errors} failed."
            f" Both sides are {'equal' if demo.equal else 'DIFFERENT'}. Writes paused for {pauses}.",
            style=style,
        )
    if not demo.succeeded:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def run_demo(on_step: Callable[[str], object]) -> Demo:
    """Run the demo and return its result. `on_step` is called with a line of text for each step.

    Raises EmbeddedServerError if a server cannot be started.
    """
    began, demo = time.monotonic(), Demo()
    with embedded_server.temporary_server() as legacy, embedded_server.temporary_server() as primary:
        settings = _settings(legacy, primary)
        sides = Sides.from_settings(settings)
        for side in sides:
            runner.upgrade(side.url)
        _fill(legacy)
        on_step(
            f"Two servers, and {CLIENT_COUNT:,} clients on legacy."
            f" {len(WRITER_KINDS)} writers start on legacy."
        )
        with _writing(settings) as writers:
            _run_transfer(sides, writers, demo, on_step)
            writers.stop()
        drain(sides)
        demo.equal = verify(sides).is_equal
        demo.writes, demo.lost, demo.errors = writers.totals()
        finish(sides, force=True)
    demo.seconds = round(time.monotonic() - began, 1)
    return demo


def _run_transfer(sides: Sides, writers: "_Writers", demo: Demo, on_step: Callable[[str], object]) -> None:
    on_step(f"start: {len(start(sides).transfer_tables)} tables are captured.")
    report = copy(sides)
    on_step(f"copy: {report.rows:,} rows in {report.seconds:.1f} s.")
    relaying = _processes.Process(target=_relay, args=(sides,), daemon=True)
    relaying.start()
    try:
        writers.wait(WRITE_PHASE_SECONDS)
        on_step(f"verify, while writers are active: {'equal' if verify(sides).is_equal else 'DIFFERENT'}.")
        for command, to in _COMMANDS:
            writers.wait(WRITE_PHASE_SECONDS)
            writers.longest_wait = 0.0
            pause = _change_live_side(sides, to, on_step) * 1000
            writers.wait(WRITE_PHASE_SECONDS)
            demo.switches.append(LiveSideChange(to, round(pause, 1), round(writers.longest_wait * 1000, 1)))
            on_step(
                f"{command}: {to} is live after a pause of {pause:,.0f} ms;"
                f" the longest wait of a writer was {writers.longest_wait * 1000:,.0f} ms."
            )
    finally:
        relaying.kill()  # safe at any moment: an apply cycle is one transaction
        relaying.join()


def _change_live_side(sides: Sides, target: SideName, on_step: Callable[[str], object]) -> float:
    """Change the live side and return the pause in seconds.

    On a busy machine an attempt may be aborted because its pause takes too long; it is then repeated.
    """
    for _ in range(MAX_CUTOVER_ATTEMPTS - 1):
        try:
            return change_live_side(sides, target).pause or 0.0
        except AbortedError as error:
            on_step(f"{error.message} Trying again.")
    return change_live_side(sides, target).pause or 0.0


_COMMANDS: tuple[tuple[str, SideName], ...] = (("cutover", "primary"), ("rollback", "legacy"))


class _Writers:
    """The writer processes and their reports."""

    def __init__(self, pipes: dict[Connection, BaseProcess]) -> None:
        self._pipes = pipes
        self._reports: dict[Connection, WriterReport] = {end: WriterReport() for end in pipes}
        self.longest_wait = 0.0

    def wait(self, seconds: float) -> None:
        """Receive reports for `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pipe in self._pipes:
                while pipe.poll(REPORT_INTERVAL_SECONDS / len(self._pipes)):
                    self._receive_report(pipe)

    def _receive_report(self, pipe: Connection) -> None:
        report: WriterReport = pipe.recv()
        self._reports[pipe] = report
        self.longest_wait = max(self.longest_wait, report.longest_wait)

    def stop(self) -> None:
        """Stop the writers after their current writes, and receive their last reports."""
        for end, process in self._pipes.items():
            end.send("stop")
            with suppress(EOFError, ConnectionResetError):  # the writer has sent all reports and exited
                while True:
                    self._receive_report(end)
            process.join()

    def totals(self) -> tuple[int, int, int]:
        """Return the numbers of acknowledged, lost and failed writes of all writers."""
        reports = self._reports.values()
        return (
            sum(report.acknowledged for report in reports),
            sum(report.lost for report in reports),
            sum(report.errors for report in reports),
        )


@contextmanager
def _writing(settings: Settings) -> Iterator[_Writers]:
    ends: dict[Connection, BaseProcess] = {}
    try:
        for number, kind in enumerate(WRITER_KINDS, 1):
            our_end, writer_end = _processes.Pipe()
            process: BaseProcess = _processes.Process(
                target=_write, args=(settings, number, kind, writer_end), daemon=True
            )
            process.start()
            writer_end.close()
            ends[our_end] = process
        writers = _Writers(ends)
        for end in ends:
            end.recv()  # the first report: the writer is active
        yield writers
    finally:
        for process in ends.values():
            process.kill()
            process.join()


def _write(settings: Settings, number: int, kind: str, pipe: Connection) -> None:
    """Write until a stop is requested, and check before each write that acknowledged rows still exist."""
    logs.disable_last_resort_handler()
    with Frontdesk(settings) as desk:
        salon = desk.company(number)
        report, last, round_ = WriterReport(), time.monotonic(), 0
        rows = range(1, (ROWS_PER_MERGE if kind == "merges" else 1) + 1)
        while not pipe.poll():
            round_ += 1
            began = time.monotonic()
            report.lost += _count_lost_rows(salon, rows, round_ - 1)
            result = salon.upsert_clients(
                {"yclients_id": n, "name": "Client", "visit_count": round_} for n in rows
            )
            report.longest_wait = max(report.longest_wait, time.monotonic() - began)
            if result.success:
                report.acknowledged += len(rows)
            else:
                report.errors += 1
                round_ -= 1
            if time.monotonic() > last + REPORT_INTERVAL_SECONDS:
                pipe.send(report)
                report.longest_wait, last = 0.0, time.monotonic()
        report.lost += _count_lost_rows(salon, rows, round_)
        pipe.send(report)


def _count_lost_rows(salon: DataLayer, rows: range, round_: int) -> int:
    """Return the number of rows that are missing or older than the last acknowledged write (`round_`)."""
    if round_ == 0:
        return 0
    clients = salon.get_clients_by_ids(list(rows)).unwrap()
    return sum(client is None or client.visit_count < round_ for client in clients)


def _relay(sides: Sides) -> None:
    logs.disable_last_resort_handler()
    relay(sides, Event())


def _fill(legacy: str) -> None:
    with Frontdesk(Settings(database_url=legacy, legacy_database_url=None)) as desk:
        for number in range(1, len(WRITER_KINDS) + 2):
            salon = desk.company(number)
            salon.upsert_company({"title": f"Salon {number}"}).unwrap()
        rows: Iterator[dict[str, Any]] = (
            {"yclients_id": n, "name": "Client", "visit_count": n} for n in range(1, CLIENT_COUNT + 1)
        )
        salon.upsert_clients(rows).unwrap()


def _settings(legacy: str, primary: str) -> Settings:
    """Return settings for both servers that ignore the environment variables."""
    return Settings(
        database_url=primary,
        legacy_database_url=legacy,
        direct_database_url=None,
        postgres_pooler=None,
        environment="development",
        sentry_enabled=False,
        transfer_pin=None,
    )
