"""`frontdesk up`: start, stop and kill of the whole development service, and its error messages."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from app import Frontdesk as Desk
from app import Settings
from app.cli import main, up
from app.yclients.sample import COMPANY_ID
from tests.e2e.conftest import Checkout, StartFrontdesk
from tests.processes import free_port, get, is_serving, running_process
from tests.servers import execute

UpHere = Callable[..., Result]

UP = "Ctrl-C stops everything."


def companies(url: str) -> list[int]:
    """Return the ids of all companies in the database."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT company_id FROM companies ORDER BY 1")]


def embedded_url(checkout: Checkout) -> str:
    """Return the URL of the embedded database of the checkout."""
    return f"postgresql://postgres@/frontdesk?host={checkout.folder}/.frontdesk/postgres"


def test_up_starts_a_database_a_sample_salon_and_the_health_api(
    checkout: Checkout, frontdesk: StartFrontdesk
) -> None:
    up = frontdesk("up")
    up.wait_for(UP)
    assert f"http://127.0.0.1:{checkout.port}/health/ready" in up.output
    assert get(checkout.port, "/health/ready").json()["status"] == "ok"
    with Desk(Settings(database_url=embedded_url(checkout))) as desk:
        salon = desk.company(COMPANY_ID)
        assert salon.get_clients().unwrap()
        assert salon.get_staff().unwrap()
        now = datetime.now(UTC)
        assert salon.get_bookings(now, now + timedelta(days=7)).unwrap()
        salon.upsert_client({"yclients_id": 1, "name": "Mine", "phone": "+79680000001"}).unwrap()
    up.send(signal.SIGINT)
    assert up.wait() == 0
    checkout.wait_until_all_is_quiet()

    again = frontdesk("up")
    again.wait_for(UP)
    assert "at head" in again.output
    assert "sample" not in again.output
    with Desk(Settings(database_url=embedded_url(checkout))) as desk:
        assert desk.company(COMPANY_ID).get_client_by_id(1).unwrap().name == "Mine"
    again.send(signal.SIGTERM)
    assert again.wait() == 0
    checkout.wait_until_all_is_quiet()


def test_up_recovers_after_kills_of_itself_and_its_database_and_stops_everything(
    checkout: Checkout, frontdesk: StartFrontdesk
) -> None:
    up = frontdesk("up")
    up.wait_for(UP)
    up.send(signal.SIGKILL)
    killed = 0
    for server in checkout.servers():
        if "postgres" in server.name():
            server.kill()
            killed += 1
    assert killed

    again = frontdesk("up")
    again.wait_for(UP)
    assert get(checkout.port, "/health/ready").json()["status"] == "ok"
    assert companies(embedded_url(checkout)) == [COMPANY_ID]
    again.send(signal.SIGKILL)  # the database keeps running; its list of users has only dead processes

    third = frontdesk("up")
    third.wait_for(UP)
    third.send(signal.SIGHUP)  # sent when the terminal is closed
    assert third.wait() == 0
    checkout.wait_until_all_is_quiet()


@pytest.mark.parametrize("step", [pytest.param("database", marks=pytest.mark.full), "schema"])
def test_up_stopped_between_steps_leaves_no_process_and_continues_at_the_next_start(
    checkout: Checkout, frontdesk: StartFrontdesk, step: str
) -> None:
    up = frontdesk("up")
    up.wait_for(step)
    up.send(signal.SIGTERM)
    up.wait()
    checkout.wait_until_all_is_quiet()
    again = frontdesk("up")
    again.wait_for(UP)
    assert companies(embedded_url(checkout)) == [COMPANY_ID]


# SIGTERM arrives inside a weak reference's callback, where Python ignores the handler's SystemExit.
IGNORED_EXIT = """
import signal, sys, weakref
from app.cli import main, up

class Thing: pass

def migrate(settings):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing

up._migrate = migrate
sys.argv[0] = "frontdesk"
main()
"""


def test_up_exits_after_the_current_step_if_python_ignores_the_exit_of_the_signal_handler(
    checkout: Checkout, database_url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", IGNORED_EXIT, "up", "--port", str(checkout.port)]
    with running_process(command, tmp_path / "output", checkout.folder, DATABASE_URL=database_url) as process:
        assert process.wait() == 128 + signal.SIGTERM
    assert "Exception ignored" in process.output
    assert "sample" not in process.output


def test_up_reports_a_busy_port_before_it_starts_anything(
    checkout: Checkout, frontdesk: StartFrontdesk
) -> None:
    with socket.create_server(("127.0.0.1", checkout.port)):
        up = frontdesk("up")
        assert up.wait() == 3
    assert f"Port {checkout.port} is used by another program" in up.output
    assert "--port" in up.output
    assert not (checkout.folder / ".frontdesk").exists()


def test_up_reports_that_another_frontdesk_serves_the_port(
    checkout: Checkout, frontdesk: StartFrontdesk, database_url: str
) -> None:
    first = frontdesk("up", DATABASE_URL=database_url)
    first.wait_for(UP)
    second = frontdesk("up", DATABASE_URL=database_url)
    assert second.wait() == 3
    assert "is used by a running Frontdesk" in second.output
    assert is_serving(checkout.port)


def test_up_uses_the_configured_database_and_adds_no_sample_to_its_companies(
    checkout: Checkout, frontdesk: StartFrontdesk, database_url: str
) -> None:
    execute(database_url, "INSERT INTO companies (company_id, title) VALUES (77, 'Salon')")
    up = frontdesk("up", DATABASE_URL=database_url)
    up.wait_for(UP)
    assert companies(database_url) == [77]
    assert not (checkout.folder / ".frontdesk").exists()


def test_up_completes_an_interrupted_import_of_the_sample(
    frontdesk: StartFrontdesk, database_url: str
) -> None:
    execute(database_url, f"INSERT INTO companies (company_id, title) VALUES ({COMPANY_ID}, 'Salon')")
    frontdesk("up", DATABASE_URL=database_url).wait_for(UP)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM bookings").fetchone() == (True,)


def test_up_imports_no_sample_in_production(frontdesk: StartFrontdesk, database_url: str) -> None:
    production = {"ENVIRONMENT": "production", "SENTRY_ENABLED": "false", "DATABASE_URL": database_url}
    frontdesk("up", **production).wait_for(UP)
    assert companies(database_url) == []


@pytest.fixture
def up_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpHere]:
    """Return a function that runs `frontdesk up` in this process: `up_here(DATABASE_URL=...)`.

    The command must fail before it serves requests.
    """
    monkeypatch.setattr(up, "serve", lambda *_, **__: pytest.fail("up must fail before it serves"))
    handler = signal.getsignal(signal.SIGTERM)
    port = str(free_port())
    yield lambda **environment: CliRunner().invoke(main, ["up", "--port", port], env=environment)
    signal.signal(signal.SIGTERM, handler)


def one_error(output: str) -> str:
    """Assert that the output is a single error line, and return it."""
    (line,) = output.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://someone:s3cret@127.0.0.1:1/frontdesk", "refused"),
        ("postgresql://someone:s3cret@no-such-host.invalid/frontdesk", "no-such-host.invalid"),
        ("postgresql://postgres:s3cret@/frontdesk?host=/nowhere", "/nowhere"),
    ],
)
def test_an_unreachable_database_is_a_one_line_error_without_the_password(
    up_here: UpHere, url: str, reason: str
) -> None:
    result = up_here(DATABASE_URL=url)
    assert result.exit_code == 3
    assert reason in one_error(result.output)
    assert "s3cret" not in result.output


def test_a_rejected_user_is_a_one_line_error_without_the_password(up_here: UpHere, database_url: str) -> None:
    result = up_here(DATABASE_URL=database_url.replace("postgres:", "no_such_user:s3cret", 1))
    assert result.exit_code == 3
    assert "no_such_user" in one_error(result.output)
    assert "s3cret" not in result.output


def test_a_database_newer_than_the_code_is_an_error_without_a_traceback(
    up_here: UpHere, database_url: str
) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = 'from_the_future'")
    result = up_here(DATABASE_URL=database_url)
    assert result.exit_code == 3
    assert "from_the_future, which this code does not know" in result.output
    assert "Traceback" not in result.output


def test_a_wrong_configuration_names_every_problem(up_here: UpHere) -> None:
    result = up_here(ENVIRONMENT="production", POSTGRES_MAX_CONNECTIONS="many")
    assert result.exit_code == 2
    for name in ("DATABASE_URL", "SENTRY_DSN", "POSTGRES_MAX_CONNECTIONS"):
        assert name in result.output
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback_of_an_error(frontdesk: StartFrontdesk) -> None:
    up = frontdesk("--debug", "up", DATABASE_URL="postgresql://127.0.0.1:1/frontdesk")
    assert up.wait() != 0
    assert "Traceback" in up.output
