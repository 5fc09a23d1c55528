"""The lock files pin, with hashes, everything that pyproject.toml and its dependencies require."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Each lock file with the extras of this project that `make lock` includes in it.
LOCK_FILES = [("requirements.txt", ("build", "s3")), ("requirements-dev.txt", ("build", "s3", "dev"))]

Pins = dict[str, Requirement]  # by canonical name


def applicable(requirements: Iterable[str], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Yield the requirements whose marker is true here, with or without one of the extras."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def read_pins(text: str) -> Pins:
    entries = [re.split(r"\s+\\\n\s+", entry) for entry in re.split(r"\n(?=\S)", text.strip())]
    for pin, *hashes in entries:
        assert hashes, f"{pin} has no hash"
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes), pin
    return {canonicalize_name(pin.name): pin for pin in applicable(pin for pin, *_ in entries)}


def unmet_requirements(pins: Pins, extras: Iterable[str]) -> list[str]:
    """Follow the requirements of the project through the installed distributions; return those without a pin.

    A requirement with extras needs a pin with these extras: pip, when it checks hashes, otherwise looks
    for the newest release, and the lock file fails on the day that a newer one is published.
    """
    unmet, followed = [], set()
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    pending = [("the project", requirement) for requirement in applicable(texts)]
    while pending:
        source, requirement = pending.pop()
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            unmet.append(f"{source} requires {requirement}, which is not pinned")
        elif not requirement.extras <= pin.extras:
            unmet.append(f"{source} requires {requirement}, which is pinned without its extras")
        elif not requirement.specifier.contains(str(pin.specifier).removeprefix("=="), prereleases=True):
            unmet.append(f"{source} requires {requirement}, which is pinned as {pin}")
        elif pin.name not in followed:
            followed.add(pin.name)
            requires = distribution(pin.name).requires or ()
            pending += [(pin.name, each) for each in applicable(requires, pin.extras)]
    return unmet


@pytest.mark.parametrize(("file", "extras"), LOCK_FILES)
def test_every_requirement_is_pinned_with_its_extras(file: str, extras: tuple[str, ...]) -> None:
    unmet = unmet_requirements(read_pins((ROOT / file).read_text()), extras)
    assert not unmet, "\n".join(["Run `make lock`:", *unmet])


@pytest.mark.parametrize(("file", "extras"), LOCK_FILES)
def test_a_pin_without_its_extras_is_found(file: str, extras: tuple[str, ...]) -> None:
    text = (ROOT / file).read_text()
    pins_with_extras = re.findall(r"^[\w.-]+\[[^]]+\]", text, flags=re.MULTILINE)
    assert pins_with_extras
    for pin in pins_with_extras:
        unmet = unmet_requirements(read_pins(text.replace(pin, pin.partition("[")[0])), extras)
        assert unmet, f"{pin} can lose its extras unnoticed"


def test_development_installs_the_versions_of_production() -> None:
    production, development = (read_pins((ROOT / file).read_text()) for file, _ in LOCK_FILES)
    assert production.items() <= development.items()


@pytest.mark.parametrize("file", [file for file, _ in LOCK_FILES])
def test_no_index_is_named(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", text)
