"""The demo of a move, as an operator watches it."""

import json
import os
import subprocess

import pytest

from app.demo import transfer
from app.transfer.cutover.cutover import AbortedError
from app.transfer.cutover.report import CutoverReport
from app.transfer.protocol.endpoints import Side, Sides
from tests.processes import BIN


@pytest.mark.full  # two servers, and half a minute of writing
def test_the_demo_moves_there_and_back_and_loses_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name}
    ended = subprocess.run(
        [BIN / "frontdesk", "transfer", "demo", "--json"], capture_output=True, text=True, env=environment,
        timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [each["to"] for each in told["switches"]] == ["primary", "legacy"]
    assert (told["lost"], told["errors"], told["equal"]) == (0, 0, True)
    assert told["writes"] > 0


def test_a_switch_that_a_busy_machine_made_too_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([AbortedError("Aborted after 1.26 s."), CutoverReport("primary", False, pause=0.05)])

    def switch(sides: Sides, to: str) -> CutoverReport:
        answer = next(answers)
        if isinstance(answer, AbortedError):
            raise answer
        return answer

    monkeypatch.setattr(transfer, "change_live_side", switch)
    said: list[str] = []
    sides = Sides(Side("legacy", ""), Side("primary", ""))
    assert transfer._change_live_side(sides, "primary", said.append) == 0.05
    assert said == ["Aborted after 1.26 s. Once more."]
