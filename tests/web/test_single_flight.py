"""Concurrent callers share one run of a check, and none waits longer than the timeout."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.web.health import single_flight
from app.web.health.single_flight import SingleFlight


class Check:
    """A check that counts its runs; a run blocks while `gate` is not set."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> int:
        self.runs += 1
        self.gate.wait()
        return self.runs


@pytest.fixture
def check() -> Iterator[Check]:
    check = Check()
    yield check
    check.gate.set()


def test_a_thousand_concurrent_calls_run_one_check(check: Check) -> None:
    check.gate.clear()
    shared = SingleFlight(check, timeout_result=-1)
    with ThreadPoolExecutor(50) as threads:
        calls = [threads.submit(shared, timeout=60) for _ in range(1_000)]
        check.gate.set()
        assert {call.result() for call in calls} == {1}
    assert check.runs == 1


def test_a_result_is_cached_until_it_expires(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SingleFlight(check, timeout_result=-1)
    assert [shared(), shared()] == [1, 1]
    monkeypatch.setattr(single_flight, "RESULT_TTL_SECONDS", -1.0)
    assert shared() == 2


def test_calls_of_a_stuck_check_return_the_timeout_result_and_start_no_second_run(check: Check) -> None:
    check.gate.clear()
    shared = SingleFlight(check, timeout_result=-1)
    assert [shared(timeout=0.05) for _ in range(20)] == [-1] * 20
    assert check.runs == 1


def test_a_call_after_the_deadline_returns_at_once(check: Check) -> None:
    check.gate.clear()
    shared = SingleFlight(check, timeout_result=-1)
    began = time.monotonic()
    assert shared(timeout=0.0) == -1
    assert time.monotonic() - began < single_flight.CHECK_TIMEOUT_SECONDS


def test_a_late_result_is_returned_to_later_calls(check: Check) -> None:
    check.gate.clear()
    shared = SingleFlight(check, timeout_result=-1)
    assert shared(timeout=0.0) == -1
    check.gate.set()
    assert shared(timeout=60.0) == 1


def test_an_exception_of_the_check_reaches_all_calls_and_the_next_check_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = iter([ValueError("broken"), 7])

    def check() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shared = SingleFlight(check, timeout_result=-1)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            shared()
    monkeypatch.setattr(single_flight, "RESULT_TTL_SECONDS", -1.0)
    assert shared() == 7
