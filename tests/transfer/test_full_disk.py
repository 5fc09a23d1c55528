"""Tests of a full disk on the standby during the copy, the relay and a cutover: no write is lost."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from app.errors import NoSpaceError
from app.migrations import runner
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.status import read_status
from app.transfer.relay.relay import relay
from app.transfer.start import start
from app.transfer.verification.verify import verify
from tests.processes import wait_until
from tests.servers import Server, execute, url_of

FULL = "primary has no space left on its disk. Free some space there; the same command then continues."


class SimulatedDisk:
    """A simulated full disk: a constraint makes writes to `clients` fail with the error for a full disk."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    def begin(self) -> None:
        execute(
            self.sides.primary.url,
            "CREATE FUNCTION has_room() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN"
            " IF obj_description('public.clients'::regclass) = 'full' THEN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';"
            " END IF; RETURN true; END $$",
            "ALTER TABLE clients ADD CONSTRAINT room CHECK (has_room())",
        )

    def fill(self) -> None:
        execute(self.sides.primary.url, "COMMENT ON TABLE clients IS 'full'")

    def make_room(self) -> None:
        execute(self.sides.primary.url, "COMMENT ON TABLE clients IS NULL")


class SmallDisk:
    """A small real disk with the tables of primary, and a file that fills the remaining space."""

    def __init__(self, sides: Sides, disk: Path) -> None:
        self.sides = sides
        self._ballast = disk / "ballast"

    def begin(self) -> None:
        """Do nothing: the disk is mounted already."""

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # ends with an OSError when the disk is full
                file.write(bytes(65_536))

    def make_room(self) -> None:
        self._ballast.unlink()


Disk = SimulatedDisk | SmallDisk


@pytest.fixture
def mounted() -> Iterator[Path]:
    """The mount point of a tmpfs of 100 MB."""
    folder = Path(tempfile.mkdtemp(prefix="fddisk"))
    folder.chmod(0o711)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], check=False).returncode:
        folder.rmdir()
        pytest.skip("mounting a tmpfs is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


@pytest.fixture
def small(mounted: Path, new_database: Callable[[], str]) -> Iterator[SmallDisk]:
    server = Server()
    tables = mounted / "tables"
    tables.mkdir(mode=0o700)
    if server.user is not None:
        shutil.chown(tables, server.user)
    execute(
        server.url,
        f"CREATE TABLESPACE small LOCATION '{tables}'",
        "CREATE DATABASE moved TABLESPACE small",
    )
    url = url_of(server.url, "moved")
    runner.upgrade(url)
    yield SmallDisk(Sides(Side("legacy", new_database()), Side("primary", url)), mounted)
    server.delete()


@pytest.fixture(params=["simulated", pytest.param("small", marks=pytest.mark.full)])
def disk(request: pytest.FixtureRequest) -> Disk:
    if request.param == "small":
        small_disk: Disk = request.getfixturevalue("small")
        return small_disk
    return SimulatedDisk(request.getfixturevalue("sides"))


def add_clients(connection: psycopg.Connection[Any], first: int) -> None:
    connection.execute(
        "INSERT INTO clients (company_id, yclients_id, name, comment)"
        " SELECT 1, n, 'x', repeat('long ', 300) FROM generate_series(%s::int, %s) AS n",
        (first, first + 2_999),
    )


def test_a_full_disk_stops_a_transfer_until_space_is_freed(disk: Disk) -> None:
    sides = disk.sides
    problems: list[str] = []
    stop = Event()
    following = Thread(target=relay, args=(sides, stop), kwargs={"on_problem": problems.append})
    with closing(psycopg.connect(sides.legacy.url, autocommit=True)) as legacy:
        legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        add_clients(legacy, 1)
        start(sides)
        disk.begin()

        disk.fill()
        with pytest.raises(NoSpaceError, match=FULL):
            copy(sides)
        disk.make_room()
        assert copy(sides).is_complete

        following.start()
        try:
            wait_until(lambda: read_status(sides).marks == 0)
            disk.fill()
            add_clients(legacy, 10_001)  # writers on legacy are not affected
            wait_until(lambda: FULL in problems)
            assert read_status(sides).marks == 3_000
            disk.make_room()
            wait_until(lambda: read_status(sides).marks == 0)
        finally:
            stop.set()
            following.join()

        disk.fill()
        add_clients(legacy, 20_001)
        with pytest.raises(NoSpaceError, match=FULL):
            change_live_side(sides, "primary", max_pause=10)
        add_clients(legacy, 30_001)
        disk.make_room()
        change_live_side(sides, "primary", max_pause=10)
    assert verify(sides).is_equal
    assert read_status(sides).in_the_way == []
