"""However many ask, one check runs; and nobody waits longer than the deadline."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.web.health import single_flight
from app.web.health.single_flight import SingleFlight


class Check:
    """Counts its runs; `gate` holds them up while it is closed."""

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


def test_a_thousand_at_once_cost_one_check(check: Check) -> None:
    check.gate.clear()
    ask = SingleFlight(check, timeout_result=-1)
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(ask, timeout=60) for _ in range(1_000)]
        check.gate.set()
        assert {each.result() for each in asked} == {1}
    assert check.runs == 1


def test_a_result_is_remembered_for_a_while_and_then_checked_anew(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = SingleFlight(check, timeout_result=-1)
    assert [ask(), ask()] == [1, 1]
    monkeypatch.setattr(single_flight, "RESULT_TTL_SECONDS", -1.0)
    assert ask() == 2


def test_who_asks_a_stuck_check_hears_so_and_starts_no_second_one(check: Check) -> None:
    check.gate.clear()
    ask = SingleFlight(check, timeout_result=-1)
    assert [ask(timeout=0.05) for _ in range(20)] == [-1] * 20
    assert check.runs == 1


def test_after_the_deadline_nobody_waits_at_all(check: Check) -> None:
    check.gate.clear()
    ask = SingleFlight(check, timeout_result=-1)
    began = time.monotonic()
    assert ask(timeout=0.0) == -1
    assert time.monotonic() - began < single_flight.CHECK_TIMEOUT_SECONDS


def test_a_late_result_serves_those_who_ask_after_it(check: Check) -> None:
    check.gate.clear()
    ask = SingleFlight(check, timeout_result=-1)
    assert ask(timeout=0.0) == -1
    check.gate.set()
    assert ask(timeout=60.0) == 1


def test_what_the_check_raises_reaches_everybody_and_the_next_check_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = iter([ValueError("broken"), 7])

    def check() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    ask = SingleFlight(check, timeout_result=-1)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            ask()
    monkeypatch.setattr(single_flight, "RESULT_TTL_SECONDS", -1.0)
    assert ask() == 7
