"""`.ci/install.py`, which `make` calls, and installation of the lock files by the oldest and newest pip."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / ".ci" / "install.py"
LOCK_FILES = ["requirements.txt", "requirements-dev.txt"]
# Version of pip in the first release of each supported Python.
OLDEST_PIP = {(3, 11): "22.3", (3, 12): "23.2.1", (3, 13): "24.2", (3, 14): "25.2"}

Stub = Callable[[str], None]


@pytest.fixture
def stub_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Return a function that puts a shell script named `uv` first on PATH."""

    def stub(script: str) -> None:
        program = tmp_path / "bin" / "uv"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return stub


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return tmp_path / "venv"


def install(
    venv: Path, lock_file: str | Path = "requirements.txt", **environment: str
) -> tuple[int, str, str]:
    """Run the script without a terminal; return its exit code, stdout and stderr."""
    finished = subprocess.run(
        [sys.executable, SCRIPT, venv, lock_file],
        env={**os.environ, "CI": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr


class TestOutput:
    def test_each_step_prints_a_line(self, stub_uv: Stub, venv: Path) -> None:
        stub_uv("exit 0")
        code, output, errors = install(venv)
        assert (code, errors) == (0, "")
        assert [line.split()[0] for line in output.splitlines()] == ["Creating", "Preparing", "Installing"]
        again = install(venv)
        assert [line.split()[0] for line in again[1].splitlines()] == ["Preparing", "Installing"]

    def test_the_script_prints_nothing_in_ci(self, stub_uv: Stub, venv: Path) -> None:
        stub_uv("exit 0")
        assert install(venv, CI="true") == (0, "", "")

    def test_a_terminal_shows_a_spinner_and_a_count(self, stub_uv: Stub, venv: Path) -> None:
        stub_uv("sleep 0.3")
        controller, terminal = pty.openpty()
        finished = subprocess.run(
            [sys.executable, SCRIPT, venv, "requirements.txt"], stdout=terminal, check=True
        )
        os.close(terminal)
        assert finished.returncode == 0
        output = os.read(controller, 100_000).decode()
        os.close(controller)
        assert "| Installing requirements.txt 0 of " in output
        assert "/ Installing requirements.txt 0 of " in output
        assert "\n" in output

    def test_the_output_of_failed_installers_is_shown(
        self, stub_uv: Stub, venv: Path, tmp_path: Path
    ) -> None:
        stub_uv("echo No route to the index; exit 2")
        lock_file = tmp_path / "requirements.txt"
        lock_file.write_text(f"no-such-package==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
        code, _, errors = install(venv, lock_file, CI="true", PIP_NO_INDEX="1")
        assert code == 3
        assert "No route to the index" in errors
        assert "No matching distribution found for no-such-package==1.0" in errors
        assert "Traceback" not in errors


def versions(venv: Path) -> str:
    """Import the project and its drivers in the environment, and return the version of SQLAlchemy."""
    code = "import app, psycopg, sqlalchemy; print(sqlalchemy.__version__)"
    return subprocess.check_output([venv / "bin" / "python", "-c", code], text=True, cwd="/")


@pytest.mark.full
class TestInstallers:
    def test_uv_installs_the_pinned_versions(self, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = Path(sys.executable).resolve().parent
        monkeypatch.setenv("PATH", f"{python}:/usr/bin:/bin")  # without this environment's uv
        assert install(venv, CI="true") == (0, "", "")
        assert (venv / "bin" / "uv").exists()
        assert versions(venv).startswith("2.1")

    def test_pip_installs_if_uv_fails(self, stub_uv: Stub, venv: Path) -> None:
        stub_uv("echo No route to the index; exit 2")
        code, _, errors = install(venv, CI="true")
        assert code == 0
        assert "Installing with pip instead" in errors
        assert versions(venv).startswith("2.1")

    @pytest.mark.parametrize("lock_file", LOCK_FILES)
    @pytest.mark.parametrize("pip", ["oldest", "newest"])
    def test_each_pip_installs_each_lock_file_from_an_empty_cache(
        self, venv: Path, pip: str, lock_file: str
    ) -> None:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        command = [venv / "bin" / "python", "-m", "pip", "--no-cache-dir", "--quiet", "install"]
        oldest = OLDEST_PIP.get(sys.version_info[:2])
        if pip == "newest":
            subprocess.run([*command, "--upgrade", "pip"], check=True)
        elif oldest is not None:
            subprocess.run([*command, f"pip=={oldest}"], check=True)
        subprocess.run([*command, "--require-hashes", "-r", PROJECT_ROOT / lock_file], check=True)
        subprocess.run([venv / "bin" / "python", "-m", "pip", "check"], check=True)
