"""Transfer commands in separate processes, which are killed or frozen at a chosen step."""

import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from app.transfer.protocol import endpoints as transfer_sides
from app.transfer.protocol import fencing
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.relay import apply_cycle, session_pair
from app.transfer.relay.apply_cycle import AppliedRows, FetchedRows, SourceSnapshot
from tests.processes import FORK_SERVER

# Steps at which a process can be interrupted: the object that has the function, and the function's name.
POINTS: dict[str, tuple[Any, str]] = {
    "replay": (session_pair, "run_apply_cycle"),
    "lock": (apply_cycle, "lock_target"),
    "close": (fencing, "close"),
    "fetch": (SourceSnapshot, "fetch"),
    "apply": (FetchedRows, "apply"),
    "forget": (AppliedRows, "completion_statements"),
    "hand over": (fencing, "hand_over"),
    "open": (fencing, "open_"),
}
WHEN = ("before", "after")


def start(
    work: Callable[..., object], *arguments: Any, at: tuple[str, str, signal.Signals] | None = None
) -> BaseProcess:
    """Start `work` in a separate process and return the process.

    `at` is (point, when, signal): the process sends itself the signal once, before or after that step.
    """
    process = FORK_SERVER.Process(target=_run, args=(work, arguments, at), daemon=True)
    process.start()
    return process


def run_switch(sides: Sides, to: SideName, max_pause: float = 5.0) -> None:
    """Run a cutover or a rollback. Raises SystemExit(1) if it fails."""
    from app.errors import FrontdeskError
    from app.transfer.cutover.cutover import change_live_side

    try:
        change_live_side(sides, to, max_pause=max_pause)
    except FrontdeskError as error:
        raise SystemExit(1) from error


def run_relay(sides: Sides) -> None:
    """Run a relay that never stops by itself."""
    from threading import Event

    from app.transfer.relay.relay import relay

    relay(sides, Event())


def _run(
    work: Callable[..., object], arguments: tuple[Any, ...], at: tuple[str, str, signal.Signals] | None
) -> None:
    # The server soon releases the locks of a frozen process.
    transfer_sides._SESSION_SETTINGS["idle_in_transaction_session_timeout"] = "1s"
    if at is not None:
        _interrupt(*at)
    work(*arguments)


def _interrupt(point: str, when: str, with_: signal.Signals) -> None:
    owner, name = POINTS[point]
    function = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        setattr(owner, name, function)
        if when == "before":
            os.kill(os.getpid(), with_)
        answer = function(*arguments, **options)
        if when == "after":
            os.kill(os.getpid(), with_)
        return answer

    setattr(owner, name, interrupted)
