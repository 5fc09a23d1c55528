"""`frontdesk transfer demo`: a move there and back under live writers, on two throw-away servers."""

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

CLIENT_COUNT = 20_000  # that are there before
ROWS_PER_MERGE = 200  # rows of each merge of the writer that merges
WRITER_KINDS = ("one client after the other", "one client after the other", "merges")
WRITE_PHASE_SECONDS = 5.0  # seconds of writing between the steps
REPORT_INTERVAL_SECONDS = 0.1  # seconds
MAX_CUTOVER_ATTEMPTS = 5  # of a switch that takes longer than writers may wait

# Spawned: threads of the data layer do not survive a fork.
_processes = multiprocessing.get_context("spawn")


@dataclass
class WriterReport:
    """What a writer has seen so far; `longest_wait` wait for a write since it last told, in seconds."""

    acknowledged: int = 0
    lost: int = 0
    errors: int = 0
    longest_wait: float = 0.0


@dataclass
class LiveSideChange:
    """One change of the live side, in milliseconds: the pause, and what the writers felt of it."""

    to: SideName
    pause: float
    longest_wait: float


@dataclass
class Demo:
    """How it went. `lost`: writes that were acknowledged and not found by the writer's next look."""

    switches: list[LiveSideChange] = field(default_factory=list)
    writes: int = 0
    lost: int = 0
    errors: int = 0
    equal: bool = False
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Nothing lost, no error, both sides equal in the end."""
        return self.equal and not self.lost and not self.errors


@click.command("demo")
@console.json_option
@click.pass_context
def demo_command(ctx: click.Context, as_json: bool) -> None:
    """Watch a move there and back under live writers; it takes about a minute.

    It starts two embedded servers of its own and removes them: no configured database is touched. Exit code 1
    where a write was lost, which must not be.
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
        pauses = " and ".join(f"{each.pause:,.0f} ms" for each in demo.switches)
        screen.print(
            f"\n{demo.writes:,} writes were acknowledged, {demo.lost} lost, {demo.errors} failed."
            f" Both sides are {'equal' if demo.equal else 'DIFFERENT'}. Writes paused for {pauses}.",
            style=style,
        )
    if not demo.succeeded:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def run_demo(on_step: Callable[[str], object]) -> Demo:
    """The whole demo; `on_step` gets a line for each step. Raises EmbeddedServerError."""
    began, demo = time.monotonic(), Demo()
    with embedded_server.temporary_server() as legacy, embedded_server.temporary_server() as primary:
        settings = _settings(legacy, primary)
        sides = Sides.from_settings(settings)
        for side in sides:
            runner.upgrade(side.url)
        _fill(legacy)
        on_step(
            f"Two servers, and {CLIENT_COUNT:,} clients on legacy. {len(WRITER_KINDS)} writers start on legacy."
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
        on_step(f"verify, while writers write: {'equal' if verify(sides).is_equal else 'DIFFERENT'}.")
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
        relaying.kill()  # at whatever it is at: nothing depends on it
        relaying.join()


def _change_live_side(sides: Sides, target: SideName, on_step: Callable[[str], object]) -> float:
    """The pause, in seconds. On a busy machine one may be given up; that costs nothing but another try."""
    for _ in range(MAX_CUTOVER_ATTEMPTS - 1):
        try:
            return change_live_side(sides, target).pause or 0.0
        except AbortedError as error:
            on_step(f"{error.message} Once more.")
    return change_live_side(sides, target).pause or 0.0


_COMMANDS: tuple[tuple[str, SideName], ...] = (("cutover", "primary"), ("rollback", "legacy"))


class _Writers:
    """The writers' processes, and what they have told."""

    def __init__(self, pipes: dict[Connection, BaseProcess]) -> None:
        self._pipes = pipes
        self._reports: dict[Connection, WriterReport] = {end: WriterReport() for end in pipes}
        self.longest_wait = 0.0

    def wait(self, seconds: float) -> None:
        """Let them write, and listen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for each in self._pipes:
                while each.poll(REPORT_INTERVAL_SECONDS / len(self._pipes)):
                    self._receive_report(each)

    def _receive_report(self, pipe: Connection) -> None:
        told: WriterReport = pipe.recv()
        self._reports[pipe] = told
        self.longest_wait = max(self.longest_wait, told.longest_wait)

    def stop(self) -> None:
        """Let each finish its last write."""
        for end, process in self._pipes.items():
            end.send("stop")
            with suppress(EOFError, ConnectionResetError):  # it has told everything, and ended
                while True:
                    self._receive_report(end)
            process.join()

    def totals(self) -> tuple[int, int, int]:
        """Acknowledged, lost, failed."""
        told = self._reports.values()
        return sum(t.acknowledged for t in told), sum(t.lost for t in told), sum(t.errors for t in told)


@contextmanager
def _writing(settings: Settings) -> Iterator[_Writers]:
    ends: dict[Connection, BaseProcess] = {}
    try:
        for number, kind in enumerate(WRITER_KINDS, 1):
            ours, theirs = _processes.Pipe()
            process: BaseProcess = _processes.Process(
                target=_write, args=(settings, number, kind, theirs), daemon=True
            )
            process.start()
            theirs.close()
            ends[ours] = process
        writers = _Writers(ends)
        for end in ends:
            end.recv()  # it has written
        yield writers
    finally:
        for process in ends.values():
            process.kill()
            process.join()


def _write(settings: Settings, number: int, kind: str, pipe: Connection) -> None:
    """Write until told to stop; look for what was acknowledged before every write."""
    logs.disable_last_resort_handler()
    with Frontdesk(settings) as desk:
        salon = desk.company(number)
        told, last, round_ = WriterReport(), time.monotonic(), 0
        rows = range(1, (ROWS_PER_MERGE if kind == "merges" else 1) + 1)
        while not pipe.poll():
            round_ += 1
            began = time.monotonic()
            told.lost += _count_lost_rows(salon, rows, round_ - 1)
            result = salon.upsert_clients(
                {"yclients_id": n, "name": "Client", "visit_count": round_} for n in rows
            )
            told.longest_wait = max(told.longest_wait, time.monotonic() - began)
            if result.success:
                told.acknowledged += len(rows)
            else:
                told.errors += 1
                round_ -= 1
            if time.monotonic() > last + REPORT_INTERVAL_SECONDS:
                pipe.send(told)
                told.longest_wait, last = 0.0, time.monotonic()
        told.lost += _count_lost_rows(salon, rows, round_)
        pipe.send(told)


def _count_lost_rows(salon: DataLayer, rows: range, round_: int) -> int:
    """How many rows do not hold what the last acknowledged write has put there."""
    if round_ == 0:
        return 0
    found = salon.get_clients_by_ids(list(rows)).unwrap()
    return sum(client is None or client.visit_count < round_ for client in found)


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
    """Both databases, whatever the environment says."""
    return Settings(
        database_url=primary,
        legacy_database_url=legacy,
        direct_database_url=None,
        postgres_pooler=None,
        environment="development",
        sentry_enabled=False,
        transfer_pin=None,
    )
