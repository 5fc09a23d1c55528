"""`.ci/check_language.py` finds phrases that plain technical English avoids."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / ".ci" / "check_language.py"


def check(path: Path, text: str) -> list[str]:
    """Return the lines that the check prints for a file with this text."""
    path.write_text(text)
    finished = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)
    lines = finished.stdout.splitlines()
    assert finished.returncode == (1 if lines else 0), finished.stderr
    return lines


@pytest.mark.parametrize(
    "text",
    [
        '"""Whoever reads this."""\n',  # check-language: data
        "# a lock of ours\n",  # check-language: data
        'raise ValueError("there is nobody")\n',  # check-language: data
        'def function():\n    """What remains."""\n',  # check-language: data
        'text = f"{1} is under way"\n',  # check-language: data
    ],
)
def test_a_phrase_is_found_in_each_kind_of_text(tmp_path: Path, text: str) -> None:
    (line,) = check(tmp_path / "module.py", text)
    assert "write: " in line


def test_a_phrase_is_found_in_a_document(tmp_path: Path) -> None:
    (line,) = check(tmp_path / "page.md", "Fine.\n\nIt tells nothing.\n")  # check-language: data
    assert ":3: 'tells'" in line


def test_identifiers_and_paths_are_not_checked(tmp_path: Path) -> None:
    code = "def tell(nobody):\n    return nobody.told\n"  # check-language: data
    assert check(tmp_path / "module.py", code) == []
    assert check(tmp_path / "page.md", "Run `who`, see docs/what.md.\n") == []  # check-language: data


def test_some_phrases_are_found_only_at_the_start_of_a_text(tmp_path: Path) -> None:
    assert check(tmp_path / "module.py", '"""Return what the server sent."""\n') == []


def test_a_finding_in_a_long_text_has_its_own_line_number(tmp_path: Path) -> None:
    (line,) = check(tmp_path / "module.py", '"""First.\n\nThe second tells.\n"""\n')  # check-language: data
    assert ":3: 'tells'" in line
