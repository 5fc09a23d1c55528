"""The commands in docs/existing-databases.md, run in order, print the output that the page shows."""

import re

import pytest
from click.testing import CliRunner

from app.cli import main
from app.config import PROJECT_ROOT
from tests.migrations.databases import Database

PAGE = (PROJECT_ROOT / "docs/existing-databases.md").read_text()


def test_the_commands_on_the_page_print_its_output(old: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    old.insert("staff", {"name": "Ольга"}, {"specialization": "nails"}, {"yclients_id": 2})
    old.execute(
        "DROP TABLE alembic_version;"
        "ALTER TABLE bookings ADD CONSTRAINT booked_once UNIQUE (yclients_id, company_id)"
    )
    monkeypatch.setenv("DATABASE_URL", old.url)
    examples = re.findall(r"^    \$ (.+)\n((?:    (?!\$ ).*\n)*)", PAGE, re.MULTILINE)
    assert len(examples) == PAGE.count("    $ ")
    for command, output in examples:
        program, *arguments = command.split()
        if program == "alembic":
            assert arguments == ["upgrade", "head"]
            old.upgrade()
        else:
            result = CliRunner().invoke(main, arguments)
            assert result.output == re.sub(r"^    ", "", output, flags=re.MULTILINE), command
    assert [command.split()[0] for command, _ in examples].count("alembic") == 1
    old.check()
