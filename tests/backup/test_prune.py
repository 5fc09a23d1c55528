"""Pruning deletes old backups by number and age, but never the last good one."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.backup import catalogue, prune
from app.backup.errors import BackupError
from app.backup.storage import Storage
from tests.backup.conftest import Backup, Prepared, copy_backup, parse_json_output
from tests.servers import execute

Old = Callable[..., str]
_numbers = itertools.count(0x1000)


def ignore_progress(*_: object) -> None:
    """Discard progress reports."""


def copy_of_age(prepared: Prepared, address: Path, days: float) -> str:
    """Copy the prepared backup to `address` under a name that dates it `days` ago; return the name."""
    then = datetime.now(UTC) - timedelta(days=days, minutes=1)
    return copy_backup(prepared, address, f"frontdesk-{then:%Y%m%dT%H%M%SZ}-{next(_numbers):04x}")


@pytest.fixture
def old(prepared: Prepared, made: str, address: Path) -> Old:
    """Return a function that makes a backup of an age in days and returns its name: `old(3)`."""
    return lambda days: copy_of_age(prepared, address, days)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (("--keep", "2"), 2),
        (("--days", "4"), 3),
        (("--keep", "1", "--days", "4"), 3),
        (("--keep", "3", "--days", "2"), 3),
    ],
)
def test_prune_deletes_backups_that_neither_rule_keeps(
    backup: Backup, made: str, old: Old, rules: tuple[str, ...], kept: int
) -> None:
    names = [made, old(1), old(3), old(5)]
    planned = parse_json_output(backup("prune", *rules, "--dry-run", "--json"))
    assert (planned["kept"], planned["deleted"]) == (names[:kept], names[kept:])
    assert len(parse_json_output(backup("list", "--json"))["backups"]) == 4
    assert parse_json_output(backup("prune", *rules, "--json"))["deleted"] == names[kept:]
    assert [entry["name"] for entry in parse_json_output(backup("list", "--json"))["backups"]] == names[:kept]


def test_the_last_good_backup_stays_when_all_newer_ones_are_bad(
    backup: Backup, made: str, old: Old, address: Path
) -> None:
    good, older = old(40), old(50)
    content = bytearray((address / f"{made}.dump").read_bytes())
    content[-100] ^= 1
    (address / f"{made}.dump").write_bytes(content)
    pruned = parse_json_output(backup("prune", "--keep", "1", "--days", "1", "--json"))
    assert (pruned["kept"], pruned["proven"], pruned["deleted"]) == ([made, good], good, [older])
    assert parse_json_output(backup("verify", good, "--json"))["good"] is True


def test_an_unfinished_backup_stays_until_a_good_one_is_newer(
    backup: Backup, made: str, old: Old, address: Path
) -> None:
    abandoned, fresh = old(2), old(0.5)
    (address / f"{abandoned}.json").unlink()
    (address / f"{fresh}.dump").rename(address / f"{fresh}.dump.part")
    (address / f"{fresh}.json").unlink()
    (address / "notes.txt").write_text("not a backup")
    assert parse_json_output(backup("prune", "--keep", "1", "--json"))["deleted"] == [abandoned]
    assert (address / "notes.txt").exists()


def test_prune_refuses_to_delete_when_no_backup_is_good(
    backup: Backup, made: str, old: Old, address: Path
) -> None:
    names = {made, old(1)}
    for name in names:
        (address / f"{name}.dump").write_bytes(b"x")
    refused = backup("prune", "--keep", "1")
    assert refused.exit_code == 3
    assert "nothing is deleted" in refused.stderr
    assert {path.stem for path in address.glob("*.dump")} == names


def test_the_last_restored_backup_stays_until_a_newer_one_is_restored(
    backup: Backup, made: str, old: Old
) -> None:
    """A readable backup may fail to restore, for example if its rows violate a unique index."""
    restored, older = old(40), old(50)
    parse_json_output(backup("drill", older, "--json"))
    parse_json_output(backup("drill", restored, "--json"))
    pruned = parse_json_output(backup("prune", "--keep", "1", "--json"))
    assert (pruned["kept"], pruned["deleted"]) == ([made, restored], [older])
    parse_json_output(backup("drill", "--json"))
    assert parse_json_output(backup("prune", "--keep", "1", "--json"))["deleted"] == [restored]


def test_a_backup_that_a_drill_found_bad_does_not_count_as_good(
    backup: Backup, made: str, old: Old, prepared: Prepared
) -> None:
    good, older = old(40), old(50)
    execute(
        prepared.url,
        f"INSERT INTO backup_runs (kind, backup, outcome, seconds) VALUES ('drill', '{made}', 'bad', 1)",
    )
    pruned = parse_json_output(backup("prune", "--keep", "1", "--json"))
    assert (pruned["kept"], pruned["proven"], pruned["deleted"]) == ([made, good], good, [older])


def test_prune_without_the_log_warns_and_only_verifies_the_backups(
    backup: Backup, made: str, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = old(1)
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    pruned = backup("prune", "--keep", "1", "--json")
    assert parse_json_output(pruned)["deleted"] == [older]
    assert "Warning: the log of earlier checks is unavailable" in pruned.stderr


def test_two_concurrent_prunes_do_not_conflict(made: str, old: Old, address: Path) -> None:
    older, storage = old(1), Storage(str(address))
    plans = [prune.plan_prune(storage, 1, None, ignore_progress) for _ in range(2)]
    for planned in plans:
        for entry in planned.deleted:
            prune.delete_backup(storage, entry)
    assert [entry.name for entry in plans[1].deleted] == [older]
    assert [entry.name for entry in catalogue.list_backups(storage)] == [made]


def test_prune_keeps_a_good_backup_for_any_rules_and_damage(prepared: Prepared, tmp_path: Path) -> None:
    numbers = itertools.count()

    @settings(max_examples=10)
    @given(
        backups=st.lists(st.tuples(st.floats(0, 90), st.booleans()), min_size=1, max_size=6),
        keep=st.none() | st.integers(1, 4),
        days=st.none() | st.integers(1, 60),
    )
    def prune_some(backups: list[tuple[float, bool]], keep: int | None, days: int | None) -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        is_good = {copy_of_age(prepared, folder, age): good for age, good in backups}
        for name, good in is_good.items():
            if not good:
                with (folder / f"{name}.dump").open("r+b") as file:
                    file.write(b"X")
        storage = Storage(str(folder))
        try:
            planned = prune.plan_prune(storage, keep, days, ignore_progress)
        except BackupError:
            assert not any(is_good.values())
            return
        newest = max(name for name, good in is_good.items() if good)
        assert newest in {entry.name for entry in planned.kept}
        assert len(planned.kept) + len(planned.deleted) == len(catalogue.list_backups(storage))

    prune_some()
