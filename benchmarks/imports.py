"""P8: import of a salon from YClients payload files, compared with P1's plain merge; and its memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from app.demo.fake_yclients.salon import FakeSalon, RowCounts
from app.yclients.importing.import_files import import_files
from benchmarks.bulk import RAW, Bulk
from benchmarks.environment import COMPANY, Environment
from benchmarks.harness import Benchmark, Measure, Peer, stopwatch

RECORDS_PER_CLIENT = 1.5
# Read VmHWM and not ru_maxrss, which starts from the memory of the parent process.
_COMMAND = """
from app.cli import main
try:
    main(standalone_mode=False)
finally:
    print(open("/proc/self/status").read())
"""
TABLES = "clients, bookings, booking_services, booking_slots"


def of_a_salon(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P8: rate and peak memory of an import."""
    folder = Path(environment.resources.enter_context(TemporaryDirectory()))
    small = _files(folder / "small", environment.rows)
    large = _files(folder / "large", environment.rows * 10)
    rows = environment.rows + int(environment.rows * RECORDS_PER_CLIENT)

    def ours() -> float:
        environment.maintain(f"TRUNCATE {TABLES}", "VACUUM (ANALYZE) bookings")
        with stopwatch() as watch:
            summary = import_files(environment.desk, COMPANY, small)
        assert not summary.broken, summary
        return rows / watch.seconds

    bulk = Bulk(Environment(environment.url, rows, environment.resources))
    raw = bulk.rate(lambda: environment.maintain(f"TRUNCATE {TABLES}"), lambda: bulk.raw(bulk.stored))
    work = f"import of {environment.rows:,} clients and {rows - environment.rows:,} bookings with services"
    return [
        Benchmark("P8", work, "rows/s", ours, [Peer(RAW, raw)], repeats=3),
        Benchmark(
            "P8",
            "peak memory of that import, ten times the rows",
            "MB",
            _peak(environment, large),
            [Peer("the same import with the rows above", _peak(environment, small))],
            repeats=1,
        ),
    ]


def _files(folder: Path, clients: int) -> list[Path]:
    """Write a salon's clients and bookings in the form of YClients' responses; return the two paths."""
    folder.mkdir()
    salon = FakeSalon(COMPANY, RowCounts(clients=clients, records=int(clients * RECORDS_PER_CLIENT)))
    paths = []
    for name in ("clients", "records"):
        paths.append(folder / f"{name}.json")
        data = list(salon.collections[name].values())
        paths[-1].write_text(json.dumps({"success": True, "data": data, "meta": {}}, ensure_ascii=False))
    return paths


def _peak(environment: Environment, paths: list[Path]) -> Measure:
    """Return a measure of the import command's peak resident memory (VmHWM), in MB."""

    def measure() -> float:
        environment.maintain(f"TRUNCATE {TABLES}")
        arguments = ["import", "--json", "--company", str(COMPANY), *map(str, paths)]
        output = subprocess.run(
            [sys.executable, "-c", _COMMAND, *arguments],
            env={**os.environ, "DATABASE_URL": environment.url},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        return int(re.findall(r"VmHWM:\s*(\d+) kB", output)[-1]) / 1024

    return measure
