"""Whoever is killed or frozen at whatever step: one side takes writes in the end, and has them all."""

import signal
from threading import Event, Thread
from typing import Any

import psutil
import psycopg
import pytest

from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol import fencing
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import read_status
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.transfer.controllers import POINTS, WHEN, run_relay, run_switch
from tests.transfer.controllers import start as run
from tests.transfer.moving import assert_live, copy_by_change_log, switch_with_retries

Connection = psycopg.Connection[Any]
STEPS = [(point, when) for point in POINTS for when in WHEN]
MOST_TELLING = [("close", "after"), ("hand over", "after")]
at_each_step = pytest.mark.parametrize(
    "steps", [pytest.param(MOST_TELLING, id="few"), pytest.param(STEPS, id="all", marks=pytest.mark.full)]
)


@pytest.fixture
def moving(sides: Sides, legacy: Connection) -> Sides:
    """A move in which everything has been copied, and a change waits in the log."""
    legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    start(sides)
    copy_by_change_log(sides)
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    return sides


@at_each_step
def test_a_switch_that_is_killed_at_any_step_goes_on_when_it_is_run_again(
    moving: Sides, steps: list[tuple[str, str]]
) -> None:
    to: SideName = "primary"
    for point, when in steps:
        process = run(run_switch, moving, to, at=(point, when, signal.SIGKILL))
        process.join(WAIT_TIMEOUT_SECONDS)
        assert process.exitcode == -signal.SIGKILL, (point, when)
        change_live_side(moving, to)
        assert_live(moving, to)
        to = "legacy" if to == "primary" else "primary"


@at_each_step
def test_a_switch_that_was_frozen_at_any_step_does_no_harm_when_it_wakes(
    moving: Sides, legacy: Connection, steps: list[tuple[str, str]]
) -> None:
    for point, when in steps:
        legacy.execute("UPDATE clients SET visit_count = visit_count + 1")
        process = run(run_switch, moving, "primary", at=(point, when, signal.SIGSTOP))
        frozen = psutil.Process(process.pid)
        wait_until(lambda frozen=frozen: frozen.status() == psutil.STATUS_STOPPED)
        switch_with_retries(moving, "primary")
        change_live_side(moving, "legacy")
        frozen.resume()
        process.join(WAIT_TIMEOUT_SECONDS)
        assert process.exitcode in (0, 1), (point, when)
        # Whatever it still did, it did as a command of its own would.
        live = read_status(moving).live
        assert live is not None, (point, when)
        assert_live(moving, live)
        change_live_side(moving, "legacy")


def test_several_switches_at_once_end_with_one_live_side(moving: Sides) -> None:
    directions: tuple[SideName, ...] = ("primary", "legacy")
    for to in directions:
        processes = [run(run_switch, moving, to) for _ in range(3)]
        for process in processes:
            process.join(WAIT_TIMEOUT_SECONDS)
        assert {process.exitcode for process in processes} <= {0, 1}
        switch_with_retries(moving, to)
        assert_live(moving, to)


@pytest.mark.full
def test_a_relay_that_is_killed_at_any_step_leaves_nothing_half_done(
    moving: Sides, legacy: Connection
) -> None:
    for point, when in STEPS:
        if point in ("replay", "lock", "fetch", "apply", "forget"):
            legacy.execute("UPDATE clients SET visit_count = visit_count + 1")
            process = run(run_relay, moving, at=(point, when, signal.SIGKILL))
            process.join(WAIT_TIMEOUT_SECONDS)
            assert process.exitcode == -signal.SIGKILL
            assert_live(moving, "legacy")


def test_a_side_that_was_closed_and_left_opens_by_itself(moving: Sides) -> None:
    process = run(run_switch, moving, "primary", 2.0, at=("close", "after", signal.SIGKILL))
    process.join(WAIT_TIMEOUT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    wait_until(lambda: read_status(moving).stage is Stage.RELAYING)
    assert_live(moving, "legacy")


def test_a_closing_that_time_has_ended_hands_nothing_over(moving: Sides, legacy: Connection) -> None:
    drain(moving)
    attempt, _ = fencing.close(legacy, 1, 1, 0.1)
    wait_until(lambda: read_status(moving).stage is Stage.RELAYING)
    with pytest.raises(fencing.PauseExpiredError):
        fencing.hand_over(legacy, 1, attempt)
    assert fencing.reopen(legacy, 1, attempt)
    assert_live(moving, "legacy")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_who_writes_because_time_has_opened_the_side_is_waited_for_by_the_next_closing(
    moving: Sides, legacy: Connection, level: str
) -> None:
    fencing.close(legacy, 1, 1, 0.1)
    wait_until(lambda: read_status(moving).stage is Stage.RELAYING)
    with psycopg.connect(moving.legacy.url) as writer:
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        writer.execute("UPDATE clients SET name = 'late'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fencing.close(legacy, 1, 0.1, 1)
    assert_live(moving, "legacy")


def test_what_was_handed_over_and_left_is_opened_by_the_relay(
    moving: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = run(run_switch, moving, "primary", at=("open", "before", signal.SIGKILL))
    process.join(WAIT_TIMEOUT_SECONDS)
    assert read_status(moving).stage is Stage.HANDED_OVER
    monkeypatch.setattr("app.transfer.relay.relay.ABANDONED_AFTER_SECONDS", 0.2)
    stop = Event()
    thread = Thread(target=relay, args=(moving, stop))
    thread.start()
    try:
        wait_until(lambda: read_status(moving).stage is Stage.CUT_OVER)
    finally:
        stop.set()
        thread.join()
    assert_live(moving, "primary")
