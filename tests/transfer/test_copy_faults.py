"""Tests of a copy whose servers are killed or frozen: the same command continues, and no row is lost."""

import os
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest

from app.migrations import runner
from app.transfer.copying.copy import copy
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.relay.relay import drain
from app.transfer.start import start
from app.transfer.verification.verify import verify
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.servers import Server, execute, url_of

pytestmark = pytest.mark.full

ROWS = 40_000


@pytest.fixture
def own_sides(servers: tuple[Server, Server]) -> Sides:
    """Return the sides of a started transfer between the two servers of `servers`."""
    urls = []
    for server in servers:
        execute(server.url, "DROP DATABASE IF EXISTS moved WITH (FORCE)", "CREATE DATABASE moved")
        urls.append(url_of(server.url, "moved"))
        runner.upgrade(urls[-1])
    execute(
        urls[0],
        "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')",
        "INSERT INTO clients (company_id, yclients_id, name)"
        f" SELECT 1, n, 'Client ' || n FROM generate_series(1, {ROWS}) AS n",
    )
    sides = Sides(Side("legacy", urls[0]), Side("primary", urls[1]))
    start(sides)
    return sides


def run_copy(sides: Sides, fault: Callable[[], object]) -> tuple[int, str]:
    """Run a copy, inject the fault after the first chunk, and return the exit code and stderr."""
    environment = {"LEGACY_DATABASE_URL": sides.legacy.url, "DATABASE_URL": sides.primary.url}
    process = subprocess.Popen(
        [sys.executable, "-c", "from app.cli import main; main()", "transfer", "copy"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with psycopg.connect(sides.primary.url, autocommit=True) as primary:
        query = "SELECT FROM frontdesk_transfer.stretches WHERE rows > 1"
        wait_until(lambda: primary.execute(query).fetchone() is not None or process.poll() is not None)
    assert process.poll() is None, "the copy ended before the fault"
    fault()
    _, errors = process.communicate(timeout=WAIT_TIMEOUT_SECONDS)
    return process.returncode, errors


@pytest.mark.parametrize("victim", ["legacy", "primary"])
def test_a_killed_server_ends_the_copy_and_the_next_run_continues(
    own_sides: Sides, servers: tuple[Server, Server], victim: str
) -> None:
    server = servers[0 if victim == "legacy" else 1]

    def kill() -> None:
        server.kill()
        server.start()

    code, errors = run_copy(own_sides, kill)
    assert (code, f"interrupted by {victim}" in errors) == (3, True), errors
    assert "run the same command again" in errors
    execute(own_sides.legacy.url, "UPDATE clients SET name = name || '!' WHERE id % 100 = 0")
    assert copy(own_sides).is_complete
    drain(own_sides)
    assert verify(own_sides).is_equal


@pytest.mark.parametrize("victim", [0, 1])
def test_a_temporarily_frozen_server_only_delays_the_copy(
    own_sides: Sides, servers: tuple[Server, Server], victim: int
) -> None:
    def freeze() -> None:
        servers[victim].freeze()
        try:
            subprocess.run(["sleep", "3"], check=True)
        finally:
            servers[victim].thaw()

    assert run_copy(own_sides, freeze)[0] == 0
    assert verify(own_sides).is_equal
