"""docs/whatsapp.md and the code agree."""

import inspect
import re
from pathlib import Path

import pytest

from app.cli.whatsapp import whatsapp_commands
from app.config import Settings
from app.whatsapp.retention import DELETION_GRACE_PERIOD, IDLE_PERIOD, Retention
from app.whatsapp.session_store import LEASE_DURATION, SessionStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/whatsapp.md").read_text()
ADAPTER = ROOT / "app/whatsapp/baileys/useFrontdeskAuthState.mjs"


def test_the_page_documents_every_operation_with_its_signature_and_no_other() -> None:
    table = PAGE.partition("| operation |")[2].partition("\n\n")[0]
    documented = re.findall(r"`(\w+\(.*?\))`", table)
    operations = []
    for name in vars(SessionStore):
        if not name.startswith("_"):
            given = list(inspect.signature(getattr(SessionStore, name)).parameters.values())[1:]
            plain = [str(each.replace(annotation=each.empty)) for each in given]
            operations.append(f"{name}({', '.join(plain)})")
    assert sorted(documented) == sorted(operations)


@pytest.mark.parametrize(("column", "profile"), [(1, "safe"), (2, "classic")])
def test_the_retention_table_equals_the_code(column: int, profile: str) -> None:
    retention = Retention.from_settings(
        Settings(database_url="postgresql://localhost/none", whatsapp_retention=profile)
    )
    table = PAGE.partition("| type | `safe`")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert len(rows) == 6
    for row in rows:
        for key_type in re.findall(r"`([\w-]+)`", row[0]) or ["any other type"]:
            days = retention.days(key_type)
            assert row[column] == ("never" if days is None else f"{days} days"), key_type


def test_durations_on_the_page_equal_those_of_the_code() -> None:
    assert (DELETION_GRACE_PERIOD.days, IDLE_PERIOD.days, LEASE_DURATION.seconds) == (7, 180, 60)
    assert "a week later" in PAGE
    assert "180 days without use" in PAGE
    assert "a lease of 60 seconds" in PAGE


def test_every_command_on_the_page_exists() -> None:
    named = set(re.findall(r"frontdesk whatsapp ([a-z-]+)", PAGE))
    assert named == set(whatsapp_commands.commands)


def test_the_adapter_has_fewer_than_a_hundred_lines() -> None:
    assert len(ADAPTER.read_text().splitlines()) < 100
