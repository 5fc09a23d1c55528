"""`frontdesk transfer demo`: a transfer forwards and backwards between two temporary servers."""

import json
import os
import subprocess

import pytest

from app.demo import transfer
from app.transfer.cutover.cutover import AbortedError
from app.transfer.cutover.report import CutoverReport
from app.transfer.protocol.endpoints import Side, Sides
from tests.processes import BIN


@pytest.mark.full  # starts two servers, and writes for half a minute
def test_the_demo_switches_to_primary_and_back_without_losing_a_write() -> None:
    environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name}
    finished = subprocess.run(
        [BIN / "frontdesk", "transfer", "demo", "--json"], capture_output=True, text=True, env=environment,
        timeout=600, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert [switch["to"] for switch in report["switches"]] == ["primary", "legacy"]
    assert (report["lost"], report["errors"], report["equal"]) == (0, 0, True)
    assert report["writes"] > 0


def test_the_demo_repeats_a_switch_that_was_aborted_as_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([AbortedError("Aborted after 1.26 s."), CutoverReport("primary", False, pause=0.05)])

    def switch(sides: Sides, to: str) -> CutoverReport:
        outcome = next(outcomes)
        if isinstance(outcome, AbortedError):
            raise outcome
        return outcome

    monkeypatch.setattr(transfer, "change_live_side", switch)
    printed: list[str] = []
    sides = Sides(Side("legacy", ""), Side("primary", ""))
    assert transfer._change_live_side(sides, "primary", printed.append) == 0.05
    assert printed == ["Aborted after 1.26 s. Trying again."]
