"""Create a virtual environment, and install a lock file and this project into it.

python .ci/install.py VENV LOCK_FILE

The script runs before anything is installed, so it uses only the standard library. It installs with uv: the
uv on the machine, or else the release that the lock files pin. If uv cannot be installed or fails, it uses
pip. Both refuse a package whose hash is not in the lock file.

On a terminal, each step has a line with a spinner and a count; otherwise a plain line, or none if CI is set.
The output of an installer is printed only if it fails.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SPINNER_SECONDS = 0.1  # between two frames of the spinner


class InstallError(Exception):
    """An installer failed; the text is its output."""


class Environment:
    """A virtual environment of the Python that runs this script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def is_usable(self) -> bool:
        """Return True if the environment has the version of the running Python."""
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            return run(self.python, "-c", code).strip() == self.version
        except (OSError, InstallError):
            return False

    def make(self) -> None:
        """Create the environment, without pip. An environment of another Python is removed first."""
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", self.folder)

    def count_packages(self) -> int:
        return sum(1 for _ in self.folder.glob("lib/python*/site-packages/*.dist-info"))

    def pip(self, *arguments: str) -> None:
        """Run pip; the first call installs the pip that comes with Python.

        Raises:
            InstallError: pip failed, or this Python has no pip.
        """
        if not any(self.folder.glob("lib/python*/site-packages/pip")):
            try:
                run(self.python, "-m", "ensurepip")
            except InstallError as error:
                raise InstallError(
                    f"{error}Install pip for this Python (Debian: python3-venv), or uv."
                ) from error
        run(self.python, "-m", "pip", "--disable-pip-version-check", "install", *arguments)

    def find_uv(self) -> Path:
        """Return the path of the machine's uv, or install the pinned release.

        Raises:
            InstallError: The pinned release cannot be installed.
        """
        own = self.folder / "bin" / "uv"
        if found := shutil.which("uv"):
            return Path(found)
        if not own.exists():
            entry = re.search(
                r"^uv==.*(\n .*)*", (PROJECT / "requirements-dev.txt").read_text(), re.MULTILINE
            )
            if entry is None:
                raise InstallError("requirements-dev.txt pins no uv: run `make lock`.")
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as pin:
                pin.write(entry.group())
                pin.flush()
                self.pip("--require-hashes", "--requirement", pin.name)
        return own


def run(*command: str | Path) -> str:
    """Run a command and return its output. Raises InstallError."""
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if finished.returncode:
        raise InstallError(finished.stdout)
    return finished.stdout


@contextmanager
def step(text: str, count: Callable[[], str] = str) -> Iterator[None]:
    """Show a step while the `with` block runs: on a terminal with a spinner, `count` and seconds."""
    if not sys.stdout.isatty():
        if not os.environ.get("CI"):
            print(text, flush=True)
        yield
        return
    began, done = time.monotonic(), threading.Event()

    def show(symbol: str) -> None:
        line = f"{symbol} {text} {count()}".rstrip()
        print(f"\r\033[K{line}  {time.monotonic() - began:.0f} s", end="", flush=True)

    def spin() -> None:
        for symbol in itertools.cycle("|/-\\"):
            show(symbol)
            if done.wait(SPINNER_SECONDS):
                return

    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start()
    symbol = "x"
    try:
        yield
        symbol = "✓" if (sys.stdout.encoding or "").lower().startswith("utf") else "*"
    finally:
        done.set()
        spinner.join()
        show(symbol)
        print(flush=True)


def install(environment: Environment, lock_file: str) -> None:
    """Install the packages of `lock_file`, and the project as an editable package.

    Raises:
        InstallError: uv and pip both failed.
    """
    pins = len(re.findall(r"^\S+==", (PROJECT / lock_file).read_text(), re.MULTILINE))
    packages = ("--require-hashes", "--requirement", str(PROJECT / lock_file))
    project = ("--no-deps", "--no-build-isolation", "--editable", str(PROJECT))

    def installed() -> str:
        return f"{min(environment.count_packages(), pins)} of {pins}"

    try:
        with step("Preparing uv"):
            uv = environment.find_uv()
        to = ("pip", "install", "--python", str(environment.python))
        with step(f"Installing {lock_file}", installed):
            run(uv, *to, *packages)
            run(uv, *to, *project)
    except InstallError as error:
        print(f"uv could not install {lock_file}:\n{error}\nInstalling with pip instead.", file=sys.stderr)
        with step(f"Installing {lock_file} with pip", installed):
            environment.pip(*packages)
            environment.pip(*project)


def main(folder: str, lock_file: str) -> int:
    environment = Environment(Path(folder).absolute())
    try:
        if not environment.is_usable():
            with step(f"Creating {folder} with Python {environment.version}"):
                environment.make()
        install(environment, lock_file)
    except InstallError as error:
        print(f"Error: {lock_file} could not be installed:\n{error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
