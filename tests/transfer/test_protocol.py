"""Tests of the protocol: after a kill or freeze at any step, one side accepts writes and has all of them."""

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
QUICK_STEPS = [("close", "after"), ("hand over", "after")]
at_each_step = pytest.mark.parametrize(
    "steps", [pytest.param(QUICK_STEPS, id="few"), pytest.param(STEPS, id="all", marks=pytest.mark.full)]
)


@pytest.fixture
def copied_sides(sides: Sides, legacy: Connection) -> Sides:
    """Two sides after the copy, with one change in legacy's change log."""
    legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    start(sides)
    copy_by_change_log(sides)
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    return sides


@at_each_step
def test_a_switch_that_is_killed_at_any_step_succeeds_when_it_is_run_again(
    copied_sides: Sides, steps: list[tuple[str, str]]
) -> None:
    to: SideName = "primary"
    for point, when in steps:
        process = run(run_switch, copied_sides, to, at=(point, when, signal.SIGKILL))
        process.join(WAIT_TIMEOUT_SECONDS)
        assert process.exitcode == -signal.SIGKILL, (point, when)
        change_live_side(copied_sides, to)
        assert_live(copied_sides, to)
        to = "legacy" if to == "primary" else "primary"


@at_each_step
def test_a_switch_that_is_frozen_at_any_step_does_no_harm_when_it_resumes(
    copied_sides: Sides, legacy: Connection, steps: list[tuple[str, str]]
) -> None:
    for point, when in steps:
        legacy.execute("UPDATE clients SET visit_count = visit_count + 1")
        process = run(run_switch, copied_sides, "primary", at=(point, when, signal.SIGSTOP))
        frozen = psutil.Process(process.pid)
        wait_until(lambda frozen=frozen: frozen.status() == psutil.STATUS_STOPPED)
        switch_with_retries(copied_sides, "primary")
        change_live_side(copied_sides, "legacy")
        frozen.resume()
        process.join(WAIT_TIMEOUT_SECONDS)
        assert process.exitcode in (0, 1), (point, when)
        # The resumed command may have switched sides, but only as a complete switch of its own.
        live = read_status(copied_sides).live
        assert live is not None, (point, when)
        assert_live(copied_sides, live)
        change_live_side(copied_sides, "legacy")


def test_several_concurrent_switches_end_with_one_live_side(copied_sides: Sides) -> None:
    directions: tuple[SideName, ...] = ("primary", "legacy")
    for to in directions:
        processes = [run(run_switch, copied_sides, to) for _ in range(3)]
        for process in processes:
            process.join(WAIT_TIMEOUT_SECONDS)
        assert {process.exitcode for process in processes} <= {0, 1}
        switch_with_retries(copied_sides, to)
        assert_live(copied_sides, to)


@pytest.mark.full
def test_a_relay_that_is_killed_at_any_step_leaves_no_partial_change(
    copied_sides: Sides, legacy: Connection
) -> None:
    for point, when in STEPS:
        if point in ("replay", "lock", "fetch", "apply", "forget"):
            legacy.execute("UPDATE clients SET visit_count = visit_count + 1")
            process = run(run_relay, copied_sides, at=(point, when, signal.SIGKILL))
            process.join(WAIT_TIMEOUT_SECONDS)
            assert process.exitcode == -signal.SIGKILL
            assert_live(copied_sides, "legacy")


def test_a_side_that_a_killed_command_has_closed_opens_by_itself(copied_sides: Sides) -> None:
    process = run(run_switch, copied_sides, "primary", 2.0, at=("close", "after", signal.SIGKILL))
    process.join(WAIT_TIMEOUT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    wait_until(lambda: read_status(copied_sides).stage is Stage.RELAYING)
    assert_live(copied_sides, "legacy")


def test_an_expired_closing_cannot_hand_over(copied_sides: Sides, legacy: Connection) -> None:
    drain(copied_sides)
    closing = fencing.close(legacy, 1, 1, 0.1)
    wait_until(lambda: read_status(copied_sides).stage is Stage.RELAYING)
    with pytest.raises(fencing.PauseExpiredError):
        fencing.hand_over(legacy, closing)
    assert fencing.reopen(legacy, closing)
    assert_live(copied_sides, "legacy")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_next_closing_waits_for_a_writer_that_began_after_the_pause_expired(
    copied_sides: Sides, legacy: Connection, level: str
) -> None:
    fencing.close(legacy, 1, 1, 0.1)
    wait_until(lambda: read_status(copied_sides).stage is Stage.RELAYING)
    with psycopg.connect(copied_sides.legacy.url) as writer:
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        writer.execute("UPDATE clients SET name = 'late'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fencing.close(legacy, 1, 0.1, 1)
    assert_live(copied_sides, "legacy")


def test_the_relay_opens_the_new_side_if_the_command_is_killed_after_the_hand_over(
    copied_sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = run(run_switch, copied_sides, "primary", at=("open", "before", signal.SIGKILL))
    process.join(WAIT_TIMEOUT_SECONDS)
    assert read_status(copied_sides).stage is Stage.HANDED_OVER
    monkeypatch.setattr("app.transfer.relay.relay.ABANDONED_AFTER_SECONDS", 0.2)
    stop = Event()
    thread = Thread(target=relay, args=(copied_sides, stop))
    thread.start()
    try:
        wait_until(lambda: read_status(copied_sides).stage is Stage.CUT_OVER)
    finally:
        stop.set()
        thread.join()
    assert_live(copied_sides, "primary")
