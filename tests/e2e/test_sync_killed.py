"""`frontdesk sync` as a process: killed and restarted, run concurrently, and rejected by YClients."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app import Frontdesk, Settings
from app.cli import main
from app.config import PROJECT_ROOT
from app.demo.fake_yclients.salon import FIRST_CLIENT, FakeSalon, RowCounts
from app.demo.fake_yclients.server import LIMITS, PARTNER_TOKEN, USER_TOKEN, FakeYClients, Fault, run_server
from tests.processes import Process, free_port, running_process, wait_until
from tests.upstream import Upstream, rows_of, with_yclients_settings

CALL = "import sys; from app.cli import main; sys.argv[0] = 'frontdesk'; main()"
SIZES = RowCounts(clients=250, staff=2, services=20, categories=3, records=400)
REQUESTS = 4 + 2 + SIZES.staff + 2
Start = Callable[..., Process]


@pytest.fixture
def frontdesk(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a command: `frontdesk("sync", "status", DATABASE_URL=…)`."""
    with ExitStack() as stack:
        outputs = (tmp_path / f"output{number}" for number in range(100))

        def start(*arguments: str, **environment: str) -> Process:
            command = [sys.executable, "-c", CALL, *arguments]
            return stack.enter_context(running_process(command, next(outputs), PROJECT_ROOT, **environment))

        yield start


@pytest.fixture
def stand_in(company_id: int) -> FakeYClients:
    """Return a fake YClients API with one salon."""
    return FakeYClients(FakeSalon(company_id, SIZES), LIMITS)


@pytest.fixture
def address(stand_in: FakeYClients) -> Iterator[str]:
    """Serve the fake API, and yield its address."""
    with run_server(stand_in) as address:
        yield address


@pytest.fixture
def sync(frontdesk: Start, address: str, company_id: int) -> Start:
    """Return a function that starts a sync of the fake salon into a database: `sync(url, "--full")`."""

    def start(database_url: str, *options: str) -> Process:
        return frontdesk(
            *("sync", "yclients", "--company", str(company_id), *options),
            **environment(database_url, address),
        )

    return start


def environment(database_url: str, address: str) -> dict[str, str]:
    """Return the environment variables of a sync."""
    return {
        "DATABASE_URL": database_url,
        "YCLIENTS_BASE_URL": address,
        "YCLIENTS_PARTNER_TOKEN": PARTNER_TOKEN,
        "YCLIENTS_USER_TOKEN": USER_TOKEN,
    }


def statuses(frontdesk: Start, database_url: str) -> list[dict[str, Any]]:
    """Return the runs that `frontdesk sync status` lists, newest first."""
    process = frontdesk("sync", "status", "--json", DATABASE_URL=database_url)
    process.wait()
    return list(json.loads(process.output))


def test_a_killed_and_restarted_sync_ends_with_the_same_data_as_an_undisturbed_one(
    frontdesk: Start, sync: Start, stand_in: FakeYClients, company_id: int, new_database: Callable[[], str]
) -> None:
    killed, undisturbed = new_database(), new_database()
    for requests in (3, 6):  # while it reads the short lists, and while it reads the clients
        before = len(stand_in.request_log)
        process = sync(killed)
        wait_until(lambda: len(stand_in.request_log) >= before + requests)  # noqa: B023 - called at once
        process.send(signal.SIGKILL)
        process.wait()
    assert statuses(frontdesk, killed)[0]["state"] == "interrupted"
    assert sync(killed).wait() == 0
    assert sync(undisturbed).wait() == 0
    assert rows_of(killed, company_id) == rows_of(undisturbed, company_id)
    assert len(rows_of(killed, company_id)["bookings"]) == SIZES.records
    assert [run["state"] for run in statuses(frontdesk, killed)] == ["done", "interrupted", "interrupted"]
    assert stand_in.rate_limited == 0


def test_a_second_concurrent_sync_of_a_company_is_refused(
    frontdesk: Start, sync: Start, stand_in: FakeYClients, database_url: str
) -> None:
    with stand_in.salon.lock:  # the fake API answers no request for rows
        first = sync(database_url, "--json")
        wait_until(lambda: bool(stand_in.request_log))
        second = sync(database_url)
        assert second.wait() == 3
        assert second.output.splitlines()[-1] == (
            "Error: A sync of the company is already running: see `frontdesk sync status`."
        )
        wait_until(lambda: bool(statuses(frontdesk, database_url)))
        assert statuses(frontdesk, database_url)[0]["state"] == "running"
    assert first.wait() == 0
    assert json.loads(first.output)["kinds"]["clients"]["inserted"] == SIZES.clients
    assert stand_in.rate_limited == 0


def test_sync_and_status_report_rejected_rows_and_rejected_tokens(
    frontdesk: Start, sync: Start, stand_in: FakeYClients, address: str, company_id: int, database_url: str
) -> None:
    stand_in.salon.put("clients", FIRST_CLIENT, name="")
    first = sync(database_url)
    assert first.wait() == 1
    assert f"clients {FIRST_CLIENT}: rejected: name: required" in first.output
    assert f"{REQUESTS} requests in" in first.output

    stand_in.faults.append(Fault("status", status=401))
    refused = sync(database_url, "--only", "staff")
    assert refused.wait() == 3
    assert refused.output.splitlines()[-1] == (
        "Error: YClients does not accept the tokens (401): check YCLIENTS_PARTNER_TOKEN and"
        " YCLIENTS_USER_TOKEN."
    )
    assert "Traceback" not in refused.output
    status = frontdesk("sync", "status", DATABASE_URL=database_url)
    assert status.wait() == 1
    assert "failed" in status.output
    assert "YClients does not accept the tokens (401)" in status.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "records"], "is not one of company"),
        (["--full", "--since", "2026-11-01"], "either --full or --since"),
        (["--since", "yesterday"], "--since must be a date"),
        (["--company", "0"], "--company"),
        ([], "YCLIENTS_PARTNER_TOKEN"),
    ],
)
def test_wrong_usage_exits_with_code_2_and_no_traceback(
    database_url: str, options: list[str], words: str
) -> None:
    command = ["sync", "yclients", "--company", "1", *options]
    result = CliRunner().invoke(main, command, env={"DATABASE_URL": database_url})
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_the_commands_that_the_demo_prints_work(frontdesk: Start, database_url: str, tmp_path: Path) -> None:
    port = free_port()
    sizes = ["--clients", "210", "--staff", "2", "--services", "5", "--bookings", "310"]
    demo = frontdesk("demo", "yclients", "--port", str(port), *sizes)
    demo.wait_for("Incoming requests")
    lines = demo.output.splitlines()
    export = next(line for line in lines if "export" in line)
    settings = dict(assignment.split("=", 1) for assignment in export.split()[1:])
    command = next(line for line in lines if "sync yclients" in line).split()[1:]
    process = frontdesk(*command, DATABASE_URL=database_url, **settings)
    assert process.wait() == 0, process.output
    assert "210" in process.output
    assert "GET /api/v1/records/" in demo.output
    busy = frontdesk("demo", "yclients", "--port", str(port), *sizes)
    assert busy.wait() == 3
    assert f"Port {port} is in use" in busy.output
    demo.send(signal.SIGINT)
    assert demo.wait() == 0
    assert "0 more were refused" in demo.output


@pytest.mark.full
def test_a_large_salon_is_synced_completely_within_the_rate_limits(
    sync: Start, company_id: int, database_url: str, stand_in: FakeYClients
) -> None:
    large = FakeYClients(FakeSalon(company_id), LIMITS)
    with run_server(large) as address:
        settings = with_yclients_settings(Settings(database_url=database_url), address)
        with Frontdesk(settings) as desk:
            upstream = Upstream(desk, large)
            summary = upstream.sync(client=None)
            again = upstream.sync(client=None)
            rows = upstream.rows()
    assert summary.succeeded
    assert (len(rows["clients"]), len(rows["staff"]), len(rows["services"])) == (20_000, 60, 400)
    assert len(rows["bookings"]) == 30_000
    assert not again.has_changes
    assert large.rate_limited == 0
