"""Frontdesk behind PgBouncer in transaction mode, whose clients share one server connection."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer.unit_of_work import UnitOfWork
from app.database import embedded_server
from app.database.connection import connect_directly
from app.errors import ConfigurationError, FrontdeskError
from app.transfer.protocol.endpoints import Side
from tests.factories import BookingRow, ClientRow
from tests.processes import free_port, wait_until
from tests.threads import at_once

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed (Debian: pgbouncer)")

CONFIGURATION = """
[databases]
{database} = host={host} port={port} user={user} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 1
max_client_conn = 100
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    """Yield the URL of the database through a PgBouncer with one server connection."""
    parts = urlsplit(database_url)
    host = parts.hostname or parse_qs(parts.query)["host"][0]
    folder = Path(tempfile.mkdtemp(prefix="pgb"))
    listen = free_port()
    (folder / "ini").write_text(
        CONFIGURATION.format(
            database=parts.path.strip("/"),
            host=host,
            port=parts.port or 5432,
            user=parts.username,
            password=f"password={parts.password}" if parts.password else "",
            listen=listen,
            folder=folder,
        )
    )
    command = [str(PROGRAM), "--quiet", str(folder / "ini")]
    if os.geteuid() == 0:  # PgBouncer does not run as root
        # Only the server's own user may enter the folder of its socket.
        user = pwd.getpwuid(Path(host).stat().st_uid) if host.startswith("/") else pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        command = [str(PROGRAM), "--quiet", "--user", user.pw_name, str(folder / "ini")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"postgresql://{parts.username}@127.0.0.1:{listen}{parts.path}"

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(is_ready)
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def settings_of_pooled(pooled_url: str, database_url: str) -> Callable[..., Settings]:
    def make(**settings: Any) -> Settings:
        return Settings(
            database_url=pooled_url,
            direct_database_url=database_url,
            postgres_pooler="transaction",
            **settings,
        )

    return make


@pytest.fixture
def pooled(settings_of_pooled: Callable[..., Settings]) -> Iterator[Frontdesk]:
    settings = settings_of_pooled(
        postgres_statement_timeout=11_000, postgres_lock_timeout=12_000, postgres_query_timeout=13_000
    )
    with Frontdesk(settings) as desk:
        desk.company(1).upsert_company({"title": "Salon"}).unwrap()
        yield desk


SETTINGS = """
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('TimeZone')
"""


def test_timeouts_of_a_unit_of_work_end_with_its_transaction(pooled: Frontdesk, pooled_url: str) -> None:
    with pooled.unit_of_work(1) as uow:
        found = uow.session.connection().exec_driver_sql(SETTINGS).one()
    assert tuple(found) == ("11s", "12s", "13s", "UTC")
    with psycopg.connect(pooled_url, prepare_threshold=None) as other:
        left = other.execute(SETTINGS).fetchone()
    assert left is not None
    assert left[:3] == ("0", "0", "0")


def test_single_reads_have_the_timeouts(pooled: Frontdesk) -> None:
    found = pooled.database.read(lambda connection: connection.execute(SETTINGS).fetchone())
    assert found == ("11s", "12s", "13s", "UTC")


def test_a_slow_single_read_times_out(settings_of_pooled: Callable[..., Settings]) -> None:
    with Frontdesk(settings_of_pooled(postgres_statement_timeout=100)) as desk:
        with pytest.raises(psycopg.errors.QueryCanceled):
            desk.database.read(lambda connection: connection.execute("SELECT pg_sleep(5)").fetchone())
        assert desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)


def test_concurrent_clients_can_repeat_a_statement(pooled: Frontdesk) -> None:
    """A prepared statement would be missing on the server connection of the next call."""
    salon = pooled.company(1)
    salon.upsert_client(ClientRow(yclients_id=1)).unwrap()
    answers = at_once([lambda: [salon.get_client_by_id(1).unwrap() for _ in range(10)]] * 6)
    assert all(client is not None for answer in answers for client in answer)


def test_bulk_upserts_and_concurrent_bookings_work(pooled: Frontdesk) -> None:
    salon = pooled.company(1)
    assert salon.upsert_clients(ClientRow.create_batch(200)).unwrap().inserted == 200
    assert salon.upsert_bookings(BookingRow.create_batch(120)).unwrap().inserted == 120
    bookings = at_once(
        [
            lambda: salon.create_booking(
                {"name": "Olga", "phone": "+79685550000"},
                {"staff_id": 99, "starts_at": "2031-05-14T12:00:00Z", "duration": 3600},
            )
        ]
        * 5
    )
    codes = sorted("booked" if each.success else each.error.code for each in bookings)
    assert codes == ["booked", "slot_taken", "slot_taken", "slot_taken", "slot_taken"]


def test_an_error_rolls_back_and_the_connection_stays_usable(pooled: Frontdesk) -> None:
    def fail(uow: UnitOfWork) -> None:
        uow.clients.upsert(ClientRow(yclients_id=5))
        uow.session.connection().exec_driver_sql("SELECT 1/0")

    with pytest.raises(FrontdeskError):
        pooled.transact(1, fail)
    assert pooled.company(1).get_client_by_id(5).unwrap() is None


def test_session_locks_bypass_the_pooler(pooled: Frontdesk) -> None:
    with connect_directly(pooled.settings) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("11s",)
        assert connection.info.port != urlsplit(embedded_server.resolve_database_url(pooled.settings)).port


def test_a_transfer_refuses_a_pooler_and_does_not_change_its_sessions(pooled_url: str) -> None:
    with pytest.raises(ConfigurationError, match="LEGACY_DATABASE_URL leads to a pooler"):
        Side("legacy", pooled_url).connect()
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
