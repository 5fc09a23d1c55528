"""What is installed is pinned, by hash, and is what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def pinned(file: str) -> dict[str, Version]:
    pins = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / file).read_text().strip()):
        name, version = re.match(r"([\w.-]+)==([^ ]+) ", entry).groups()  # type: ignore[union-attr] # or it fails
        assert "--hash=sha256:" in entry, f"{name} has no hash"
        pins[canonicalize_name(name)] = Version(version)
    return pins


def asked_for(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(text for e in extras for text in project["optional-dependencies"][e]),
    ]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize(
    ("file", "extras"), [("requirements.txt", ("build",)), ("requirements-dev.txt", ("build", "dev"))]
)
def test_everything_that_is_asked_for_is_pinned(file: str, extras: tuple[str, ...]) -> None:
    pins = pinned(file)
    for requirement in asked_for(*extras):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is missing: run `make lock`"
        assert pins[name] in requirement.specifier, f"{name} is another version: run `make lock`"


def test_development_runs_what_production_runs() -> None:
    development = pinned("requirements-dev.txt")
    assert pinned("requirements.txt").items() <= development.items()


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_no_index_is_named(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", text)
