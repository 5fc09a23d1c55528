"""`frontdesk up`: what a newcomer starts, stops and kills."""

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
from tests.processes import free_port, get, is_serving, running_process, wait_until
from tests.servers import execute

UpHere = Callable[..., Result]

UP = "Ctrl-C stops everything."


def companies(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT company_id FROM companies ORDER BY 1")]


def embedded_url(checkout: Checkout) -> str:
    return f"postgresql://postgres@/frontdesk?host={checkout.folder}/.frontdesk/postgres"


def test_a_newcomer_gets_a_database_a_sample_salon_and_a_health_api(
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


def test_killed_with_its_database_it_comes_back_and_still_stops_everything(
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
    again.send(signal.SIGKILL)  # the database runs on, with nobody on its list who lives

    third = frontdesk("up")
    third.wait_for(UP)
    third.send(signal.SIGHUP)  # the terminal was closed
    assert third.wait() == 0
    checkout.wait_until_all_is_quiet()


@pytest.mark.parametrize("step", ["database", "schema"])
def test_stopped_half_way_it_leaves_nothing_running_and_goes_on_next_time(
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


DROPPED = """
import signal, sys, weakref
from app.cli import main, up

class Thing: pass

def migrate(settings):
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing  # Python drops what the handler raises in a callback

up._migrate = migrate
sys.argv[0] = "frontdesk"
main()
"""


def test_a_stop_that_python_drops_is_heeded_a_step_later(
    checkout: Checkout, database_url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DROPPED, "up", "--port", str(checkout.port)]
    with running_process(command, tmp_path / "output", checkout.folder, DATABASE_URL=database_url) as process:
        assert process.wait() == 128 + signal.SIGTERM
    assert "Exception ignored" in process.output
    assert "sample" not in process.output


def test_a_busy_port_is_said_before_anything_is_started(
    checkout: Checkout, frontdesk: StartFrontdesk
) -> None:
    with socket.create_server(("127.0.0.1", checkout.port)):
        up = frontdesk("up")
        assert up.wait() == 3
    assert f"Port {checkout.port} is busy" in up.output
    assert "--port" in up.output
    assert not (checkout.folder / ".frontdesk").exists()


def test_a_port_that_another_frontdesk_serves_is_said_so(
    checkout: Checkout, frontdesk: StartFrontdesk, database_url: str
) -> None:
    first = frontdesk("up", DATABASE_URL=database_url)
    first.wait_for(UP)
    second = frontdesk("up", DATABASE_URL=database_url)
    assert second.wait() == 3
    assert "is served by a Frontdesk that runs already" in second.output
    assert is_serving(checkout.port)


def test_a_configured_database_is_used_and_its_salons_are_left_alone(
    checkout: Checkout, frontdesk: StartFrontdesk, database_url: str
) -> None:
    execute(database_url, "INSERT INTO companies (company_id, title) VALUES (77, 'Salon')")
    up = frontdesk("up", DATABASE_URL=database_url)
    up.wait_for(UP)
    assert companies(database_url) == [77]
    assert not (checkout.folder / ".frontdesk").exists()


def test_a_sample_that_was_cut_short_is_completed(frontdesk: StartFrontdesk, database_url: str) -> None:
    execute(database_url, f"INSERT INTO companies (company_id, title) VALUES ({COMPANY_ID}, 'Salon')")
    frontdesk("up", DATABASE_URL=database_url).wait_for(UP)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM bookings").fetchone() == (True,)


def test_production_gets_no_sample(frontdesk: StartFrontdesk, database_url: str) -> None:
    production = {"ENVIRONMENT": "production", "SENTRY_ENABLED": "false", "DATABASE_URL": database_url}
    frontdesk("up", **production).wait_for(UP)
    assert companies(database_url) == []


@pytest.fixture
def up_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpHere]:
    """Run `frontdesk up` in this process, up to an error: `up_here(DATABASE_URL=...)`."""
    monkeypatch.setattr(up, "serve", lambda *_, **__: pytest.fail("it serves"))
    handler = signal.getsignal(signal.SIGTERM)
    port = str(free_port())
    yield lambda **environment: CliRunner().invoke(main, ["up", "--port", port], env=environment)
    signal.signal(signal.SIGTERM, handler)


def one_error(output: str) -> str:
    """The one line of an error; nothing else may have been said."""
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
def test_a_database_that_cannot_be_reached_is_one_line(up_here: UpHere, url: str, reason: str) -> None:
    result = up_here(DATABASE_URL=url)
    assert result.exit_code == 3
    assert reason in one_error(result.output)
    assert "s3cret" not in result.output


def test_a_refused_user_is_one_line(up_here: UpHere, database_url: str) -> None:
    result = up_here(DATABASE_URL=database_url.replace("postgres:", "stranger:s3cret", 1))
    assert result.exit_code == 3
    assert "stranger" in one_error(result.output)
    assert "s3cret" not in result.output


def test_a_database_newer_than_the_code_is_one_line(
    checkout: Checkout, frontdesk: StartFrontdesk, database_url: str
) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = 'from_the_future'")
    up = frontdesk("up", DATABASE_URL=database_url)
    assert up.wait() == 3
    assert "from_the_future, which this code does not know" in up.output
    assert "Traceback" not in up.output
    wait_until(lambda: not is_serving(checkout.port))


def test_a_wrong_configuration_names_every_problem(up_here: UpHere) -> None:
    result = up_here(ENVIRONMENT="production", POSTGRES_MAX_CONNECTIONS="many")
    assert result.exit_code == 2
    for name in ("DATABASE_URL", "SENTRY_DSN", "POSTGRES_MAX_CONNECTIONS"):
        assert name in result.output
    assert "Traceback" not in result.output


def test_debug_shows_where_an_error_comes_from(frontdesk: StartFrontdesk) -> None:
    up = frontdesk("--debug", "up", DATABASE_URL="postgresql://127.0.0.1:1/frontdesk")
    assert up.wait() != 0
    assert "Traceback" in up.output
