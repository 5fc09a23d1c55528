"""The demo of a move, as an operator watches it."""

import json
import os
import subprocess

import pytest

from tests.processes import BIN


@pytest.mark.full  # two servers, and half a minute of writing
def test_the_demo_moves_there_and_back_and_loses_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name}
    ended = subprocess.run(
        [BIN / "frontdesk", "transfer", "demo", "--json"], capture_output=True, text=True, env=environment,
        timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [each["to"] for each in told["switches"]] == ["primary", "legacy"]
    assert (told["lost"], told["errors"], told["equal"]) == (0, 0, True)
    assert told["writes"] > 0
