"""Commands of a move in processes of their own, killed or frozen at a chosen step."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from app.transfer import link, protocol
from app.transfer import sides as transfer_sides
from app.transfer.replay import Replay
from app.transfer.sides import SideName, Sides

# Where a process can be interrupted: an owner, and the name of its function.
POINTS: dict[str, tuple[Any, str]] = {
    "replay": (link, "replay"),
    "lock": (Replay, "lock_target"),
    "close": (protocol, "close"),
    "fetch": (Replay, "fetch"),
    "apply": (Replay, "apply"),
    "forget": (Replay, "forgetting"),
    "hand over": (protocol, "hand_over"),
    "open": (protocol, "open_"),
}
WHEN = ("before", "after")

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [__name__, "app.transfer.switch", "app.transfer.relay", "tests.transfer.writers"]
)


def start(
    work: Callable[..., object], *arguments: Any, at: tuple[str, str, signal.Signals] | None = None
) -> BaseProcess:
    """Run `work` in a process of its own; `at` (point, when, signal) interrupts it there, once."""
    process = _processes.Process(target=_run, args=(work, arguments, at), daemon=True)
    process.start()
    return process


def switching(sides: Sides, to: SideName, max_pause: float = 5.0) -> None:
    """A cutover or a rollback. Its exit code is 1 where it was refused."""
    from app.errors import FrontdeskError
    from app.transfer.switch import switch

    try:
        switch(sides, to, max_pause=max_pause)
    except FrontdeskError as error:
        raise SystemExit(1) from error


def relaying(sides: Sides) -> None:
    """A relay that never stops by itself."""
    from threading import Event

    from app.transfer.relay import relay

    relay(sides, Event())


def _run(
    work: Callable[..., object], arguments: tuple[Any, ...], at: tuple[str, str, signal.Signals] | None
) -> None:
    transfer_sides._SESSION["idle_in_transaction_session_timeout"] = "1s"  # for those that are frozen
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
