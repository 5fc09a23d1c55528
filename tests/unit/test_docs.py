"""The documentation agrees with the code: signatures, error codes, settings, commands, links."""

import inspect
import re
from pathlib import Path

import click
import pytest

from app.cli import main
from app.config import Settings
from app.data_layer import DataLayer
from app.errors import FrontdeskError
from app.schemas import rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DATA_LAYER = (ROOT / "docs/data-layer.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def operations() -> dict[str, str]:
    """Return the operations by name, as the page shows them: `get_clients(limit=100, after=None)`."""
    found = {}
    for name, function in inspect.getmembers(DataLayer, inspect.isfunction):
        if not name.startswith("_"):
            parameters = [
                p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()
            ]
            found[name] = f"{name}({', '.join(str(p) for p in parameters if p.name != 'self')})"
    return found


def error_codes(base: type[FrontdeskError] = FrontdeskError) -> set[str]:
    return {base.code}.union(*(error_codes(subclass) for subclass in base.__subclasses__()))


def commands_of_make(text: str) -> set[str]:
    """Return the targets of `make` commands in code, not words after the verb "make" in a sentence."""
    return set(re.findall(r"(?:`|^    |\$ |… )make ([a-z-]+)", text, re.MULTILINE))


def links_of(text: str) -> list[str]:
    """Return the targets of links to pages and files of the project."""
    return re.findall(r"\]\((?!https?:)([^)#]+)", text)


def test_the_page_documents_every_operation_with_its_signature_and_no_other() -> None:
    documented = re.findall(r"^\| `(\w+\(.*?\))` \|", DATA_LAYER, re.MULTILINE)
    assert sorted(documented) == sorted(operations().values())


def test_the_page_documents_every_error_code_and_no_other() -> None:
    documented = re.findall(
        r"^\| `(\w+)` \|", DATA_LAYER.partition("## Errors")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert sorted(documented) == sorted(error_codes())


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("company", rows.CompanyRow),
        ("client", rows.ClientRow),
        ("service", rows.ServiceRow),
        ("staff", rows.StaffRow),
        ("schedule", rows.StaffScheduleRow),
        ("booking", rows.BookingRow),
        ("booking of `create_booking`", rows.NewBookingRow),
    ],
)
def test_the_page_documents_every_field_of_a_row_and_marks_required_fields(kind: str, schema: type) -> None:
    (line,) = re.findall(rf"^\| {re.escape(kind)} \| (.*) \|$", DATA_LAYER, re.MULTILINE)
    fields = re.sub(r"\(.*?\)", "", line)  # without the fields inside a value
    mirrored = {"source_changed_at", "deleted_at"}
    documented = set(re.findall(r"`(\w+)`", fields)) | (mirrored & set(schema.__annotations__))
    assert documented == set(schema.__annotations__)
    assert set(re.findall(r"`(\w+)`\*", fields)) == schema.__required_keys__  # type: ignore[attr-defined] # TypedDict


def test_the_readme_documents_every_setting_and_no_other() -> None:
    table = README.partition("## Configuration")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[A-Z].*?) \|", table, re.MULTILINE)
    documented = re.findall(r"`(\w+)`", " ".join(first_cells))
    assert sorted(documented) == sorted(name.upper() for name in Settings.model_fields)


def test_defaults_in_the_readme_equal_those_of_the_settings() -> None:
    numbers = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", README, re.MULTILINE)
    assert len(numbers) > 10
    for name, default in numbers:
        assert str(Settings.model_fields[name.lower()].default) == default, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands_of_make(README), "the pattern must match in README.md"
    assert commands_of_make(page.read_text()) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_target_of_every_link_between_pages_exists(page: Path) -> None:
    assert links_of(README), "the pattern must match in README.md"
    assert [link for link in links_of(page.read_text()) if not (page.parent / link).exists()] == []


def commands_of_units() -> list[str]:
    """Return the arguments of each `frontdesk` command in the systemd units."""
    units = "\n".join(unit.read_text() for unit in sorted((ROOT / "docs/systemd").iterdir()))
    return re.findall(r"^ExecStart=\S*/frontdesk (.*)$", units, re.MULTILINE)


@pytest.mark.parametrize("line", commands_of_units())
def test_every_frontdesk_command_in_a_systemd_unit_exists_with_its_options(line: str) -> None:
    command: click.Command = main
    words = line.replace("%i", "962302").split()
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None
        command = found
    command.make_context(line, words)


def test_every_path_in_the_tour_of_the_layout_exists() -> None:
    tour = README.partition("## A tour of the layout")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", tour, re.MULTILINE)
    paths = re.findall(r"`([\w./]+)`", " ".join(first_cells))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
