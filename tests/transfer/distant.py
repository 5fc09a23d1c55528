"""Two servers behind TCP proxies: one proxy per server for the transfer's commands, one for the services."""

from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, Self

import psycopg

from app.errors import FrontdeskError
from app.transfer.cutover.cutover import change_live_side
from app.transfer.cutover.report import CutoverReport
from app.transfer.protocol.endpoints import Side, SideName, Sides
from app.transfer.protocol.fencing import SideRow, read_side_row
from tests.network import TcpProxy
from tests.processes import WAIT_TIMEOUT_SECONDS
from tests.stopwatch import Stopwatch


@dataclass(frozen=True)
class RemoteSides:
    """Two sides with the proxies that lead to them."""

    direct: Sides  # without proxies, for the checks of a test
    commands_to_legacy: TcpProxy
    commands_to_primary: TcpProxy
    services_to_legacy: TcpProxy
    services_to_primary: TcpProxy

    @cached_property
    def commands(self) -> Sides:
        """The sides, through the proxies of the commands."""
        return _along(self.commands_to_legacy, self.commands_to_primary)

    @cached_property
    def services(self) -> Sides:
        """The sides, through the proxies of the services."""
        return _along(self.services_to_legacy, self.services_to_primary)

    @property
    def lines(self) -> tuple[TcpProxy, ...]:
        """All proxies."""
        return (*self.of_commands, self.services_to_legacy, self.services_to_primary)

    @property
    def of_commands(self) -> tuple[TcpProxy, TcpProxy]:
        """The proxies of the commands: to legacy, to primary."""
        return self.commands_to_legacy, self.commands_to_primary

    def heal(self) -> None:
        """End the faults of all proxies."""
        for line in self.lines:
            line.heal()


class SwitchAttempt:
    """A cutover or a rollback in a thread. When it has ended, `report` or `error` is set."""

    def __init__(self, sides: Sides, to: SideName, max_pause: float = 1.0) -> None:
        self.report: CutoverReport | None = None
        self.error: Exception | None = None
        self._thread = Thread(target=self._run, args=(sides, to, max_pause))
        self._thread.start()

    def _run(self, *arguments: Any) -> None:
        try:
            self.report = change_live_side(*arguments[:2], max_pause=arguments[2])
        except (FrontdeskError, psycopg.Error) as error:
            self.error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the switch has ended."""
        self._thread.join(WAIT_TIMEOUT_SECONDS)
        assert not self.is_running


class SingleOpenSideCheck:
    """Checks in a thread that the two sides are never open at the same time; `violations` lists failures."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._stop = Event()
        self._thread = Thread(target=self._watch)
        self.violations: list[tuple[SideRow, SideRow]] = []
        self.looks = 0  # consistent reads of both rows with at least one open side

    def _watch(self) -> None:
        with (
            closing(self._sides.legacy.connect()) as legacy,
            closing(self._sides.primary.connect()) as primary,
        ):
            while not self._stop.wait(0.005):
                # The suppressed errors mean that the transfer is not set up, or only in part.
                with suppress(psycopg.errors.UndefinedTable, FrontdeskError):
                    before, across, after = (
                        read_side_row(legacy),
                        read_side_row(primary),
                        read_side_row(legacy),
                    )
                    self.looks += before == after and "open" in (before.state, across.state)
                    if before == after and before.state == across.state == "open":
                        self.violations.append((before, across))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def longest_wait(side: Side, while_: SwitchAttempt, at_most: float) -> float:
    """Write every few milliseconds until the switch ends; return the longest time between two writes.

    Stops after `at_most` seconds. The result is in seconds.
    """
    longest, until = 0.0, monotonic() + at_most
    with psycopg.connect(side.url, autocommit=True) as connection, Stopwatch() as watch:
        last = watch.seconds
        while monotonic() < until:
            with suppress(psycopg.Error):
                connection.execute("UPDATE clients SET visit_count = visit_count + 1")
                now = watch.seconds
                longest, last = max(longest, now - last), now
                if not while_.is_running:
                    return longest
            sleep(0.005)
        return max(longest, watch.seconds - last)


def _along(legacy: TcpProxy, primary: TcpProxy) -> Sides:
    return Sides(Side("legacy", legacy.url), Side("primary", primary.url))
