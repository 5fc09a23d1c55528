"""`frontdesk import`: what it prints, and with which code it leaves."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app import Frontdesk
from app.cli import main
from app.yclients.importing.row_reader import RowReader


@pytest.fixture
def command(
    worker_database_url: str, company_id: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """Runs `frontdesk import` in a temporary folder, for a company that no other test uses."""
    monkeypatch.setenv("DATABASE_URL", worker_database_url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, company: str = str(company_id)) -> Result:
        return CliRunner().invoke(main, ["import", "--company", company, *arguments])

    return run


@pytest.fixture
def clients(tmp_path: Path) -> str:
    """A file of three clients: one good, one without a phone that can be read, one without a name."""
    rows = [
        {"id": 1, "name": "Анна", "phone": "8 (968) 648-44-88"},
        {"id": 2, "name": "Ира", "phone": "secret"},
        {"id": 3, "name": "", "phone": ""},
    ]
    (tmp_path / "clients.json").write_text(json.dumps({"success": True, "data": rows}))
    return "clients.json"


@pytest.fixture
def good(tmp_path: Path) -> str:
    """A file of one good client."""
    (tmp_path / "good.json").write_text(json.dumps([{"id": 1, "name": "Анна", "phone": "+79686484488"}]))
    return "good.json"


def test_the_counts_of_the_rows_are_printed_and_the_exit_code_is_0(
    command: Any, good: str, company_id: int
) -> None:
    first, again = command(good), command(good)
    assert first.exit_code == again.exit_code == 0
    assert f"Company {company_id} was unknown: created with default settings." in first.stdout
    assert first.stdout.splitlines()[-1].split()[:3] == ["clients", "1", "1"]
    assert again.stdout.splitlines()[-1] == "Nothing changed."
    assert first.stderr == again.stderr == ""


def test_rejected_rows_and_warnings_are_printed_and_the_exit_code_is_1(command: Any, clients: str) -> None:
    result = command(clients, "--rejects", "rejects.ndjson")
    assert result.exit_code == 1
    assert "clients.json, row 2: rejected: name: required" in result.stdout
    assert "clients.json, row 1: warning: phone: is not a phone number" in result.stdout
    written = [json.loads(line) for line in Path("rejects.ndjson").read_text().splitlines()]
    assert [(line["position"], line["outcome"], line["key"], line["errors"]) for line in written] == [
        (1, "warning", [2], {"phone": "is not a phone number"}),
        (2, "rejected", [3], {"name": "required"}),
    ]
    assert "secret" not in result.output


def test_json_output_is_one_document(command: Any, clients: str) -> None:
    result = command(clients, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["kinds"]["clients"]["inserted"] == 2
    assert [finding["position"] for finding in document["findings"]] == [1, 2]


def test_a_dry_run_changes_nothing(command: Any, good: str, desk: Frontdesk, company_id: int) -> None:
    result = command(good, "--dry-run")
    assert result.exit_code == 0
    assert "Dry run: everything was rolled back." in result.stdout
    assert desk.company(company_id).get_company().unwrap() is None


def test_a_truncated_file_is_reported_with_the_stored_rows_and_the_exit_code_is_1(
    command: Any, good: str
) -> None:
    whole = Path(good).read_text()
    Path("cut.json").write_text(whole[:-1] + ', {"id": 2, "na')
    result = command("cut.json")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("cut.json")]
    assert "truncated (after 1 rows, at byte" in line
    assert "the rows before were imported" in line


def test_the_kind_and_the_staff_member_of_a_schedule_can_be_given(
    command: Any, desk: Frontdesk, company_id: int
) -> None:
    Path("a.json").write_text('[{"id": 9, "name": "Оксана"}]')
    Path("b.json").write_text('[{"date": "2026-11-21", "slots": [{"from": "10:00", "to": "12:00"}]}]')
    assert command("a.json").exit_code == command("b.json").exit_code == 2
    assert command("a.json", "--kind", "staff").exit_code == command("b.json", "--staff", "9").exit_code == 0
    schedule = desk.company(company_id).get_staff_schedule(9, "2026-11-21").unwrap()
    assert schedule is not None
    assert schedule.is_working


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is not JSON"),
        (bytes(range(256)), "is not JSON"),
        (b'{"success": true, "data": [{"id": 1', "truncated"),
        (b'{"success": false, "data": null, "meta": {"message": "No rights"}}', "No rights"),
        (
            b'{"data": {"id": 5, "title": "Salon", "timezone": "UTC"}}',
            "is a payload of company 5, not of company",
        ),
    ],
)
def test_an_unusable_file_is_a_one_line_error(command: Any, content: bytes, reason: str) -> None:
    Path("file.json").write_bytes(content)
    result = command("file.json")
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: file.json: ")
    assert reason in line
    assert line.endswith("Nothing was imported.")


@pytest.mark.parametrize("company", ["0", "-1", str(2**63), "abc", ""])
def test_a_company_id_must_be_positive(command: Any, good: str, company: str) -> None:
    result = command(good, company=company)
    assert result.exit_code == 2
    assert "--company" in result.stderr


def test_the_file_of_rejected_rows_never_overwrites_an_imported_file(command: Any, good: str) -> None:
    before = Path(good).read_text()
    result = command(good, "--rejects", good)
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert Path(good).read_text() == before
    assert command(good, "--rejects", "missing/rejects").exit_code == 2


def test_an_unreachable_database_has_the_exit_code_3(
    command: Any, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:sesame@127.0.0.1:1/frontdesk")
    result = command(good)
    assert result.exit_code == 3
    assert result.stderr.startswith("Error: Cannot reach the database")
    assert "sesame" not in result.output


def test_names_are_printed_without_control_characters(command: Any) -> None:
    name = "a\x1b[31m.ndjson"
    Path(name).write_text('{"yclients_id": 1, "name": "A", "fun\\u001b[31mny": 1}')
    result = command(name, "--kind", "clients")
    assert "\x1b" not in result.output
    assert "unknown field" in result.output


def test_memory_does_not_grow_with_the_size_of_the_file(tmp_path: Path) -> None:
    row = json.dumps({"id": 1, "name": "Анна", "comment": "x" * 1000}).encode()
    peaks = []
    for rows in (500, 10_000):
        path = tmp_path / f"{rows}.json"
        path.write_bytes(b'{"success": true, "data": [' + b",".join([row] * rows) + b"]}")
        tracemalloc.start()
        assert sum(1 for _ in RowReader(path)) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 5 * 2**20
