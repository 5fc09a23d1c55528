"""Run the tests with the wall clock of all their processes shifted to dates that often reveal bugs.

python .ci/test_with_shifted_clock.py [--shift 400d] [options of pytest]

The tests always start their own PostgreSQL: the clock of the server at TEST_DATABASE_URL cannot be shifted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

SOURCE = Path(__file__).with_name("shifted_clock.c")
PYTEST = [sys.executable, "-m", "pytest", "-n", "4", "--dist", "loadgroup", "-m", "not full"]
LEAD = timedelta(days=3)  # from the shifted date to the end of the month or year, or to the clock change
ZONE = "Europe/Berlin"  # time zone of the test processes, with daylight-saving time


def main() -> int:
    today = datetime.now(UTC).date()
    shifts = {"400d": timedelta(days=400)} | {name: day - today for name, day in dates(today).items()}
    parser = argparse.ArgumentParser(description="Run the tests with a shifted clock.")
    parser.add_argument(
        "--shift", type=str.lower, help=f"one of {', '.join(shifts)}, or a number of days: 9d"
    )
    options, arguments = parser.parse_known_args()
    if options.shift is not None:
        shifts = {options.shift: shifts.get(options.shift) or days(options.shift, parser)}
    results = []
    for name, shift in shifts.items():
        write(f"== {name}: the tests run on {today + shift}")
        started = time.monotonic()
        with shifted(shift) as environment:
            code = subprocess.run([*PYTEST, *arguments], env=environment, check=False).returncode
        results.append((code, f"{name}: exit code {code}, {time.monotonic() - started:.0f} s"))
    write("\n".join(["== Results with a shifted clock", *(line for _, line in results)]))
    return int(any(code for code, _ in results))


def days(text: str, parser: argparse.ArgumentParser) -> timedelta:
    """Return the number of days in an option such as 400d; exit with 2 if it is invalid."""
    try:
        return timedelta(days=int(text.removesuffix("d")))
    except ValueError:
        parser.error(f"invalid shift: {text}")


def dates(today: date) -> dict[str, date]:
    """Return the next dates, after today, that are three days before each change of the calendar."""
    changes = {
        "month": lambda day: day.day == 1 and day.month != 1,
        "year": lambda day: day.day == 1 and day.month == 1,
        "spring": lambda day: length(day) < timedelta(days=1),
        "autumn": lambda day: length(day) > timedelta(days=1),
    }
    coming = [today + timedelta(days=n) for n in range(1, 400)]
    return {name: next(day for day in coming if is_change(day + LEAD)) for name, is_change in changes.items()}


def length(day: date) -> timedelta:
    """Return the length of a day in ZONE."""
    start, end = (
        datetime(each.year, each.month, each.day, tzinfo=ZoneInfo(ZONE)).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    return end - start


@contextmanager
def shifted(shift: timedelta) -> Iterator[dict[str, str]]:
    """Yield an environment whose processes have a shifted clock; exit with 2 if that is impossible."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        fail("Linux and a C compiler are required: apt install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="clock") as folder:
        Path(folder).chmod(0o755)  # if this process is root, PostgreSQL runs as another user
        library = Path(folder) / "shifted_clock.so"
        define = f"-DSHIFT={shift // timedelta(seconds=1)}L"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", define, "-o", library, SOURCE], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "TZ": ZONE}
        environment.pop("TEST_DATABASE_URL", None)
        command = [sys.executable, "-c", "import time; print(time.time())"]
        now = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        if abs(float(now) - time.time() - shift.total_seconds()) > timedelta(minutes=1).total_seconds():
            fail("LD_PRELOAD has no effect on the clock here")
        yield environment


def fail(message: str) -> NoReturn:
    write(message)
    sys.exit(2)


def write(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
