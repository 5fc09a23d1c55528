"""De-duplication apart from an upgrade: in short transactions, while other sessions write, repeatable."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.adoption import duplicate_groups
from app.adoption.duplicate_groups import RULES, DuplicateGroup, MergedGroup
from app.database.lock_retries import lock_error, with_lock_retries
from app.migrations import runner, schema_snapshot
from app.migrations.runner import MigrationRefused

MAX_PASSES = 5  # over all tables; limited, because writers may add duplicates faster than they are merged
OnGroup = Callable[[int, int], None]  # groups done, groups


@dataclass
class DeduplicationReport:
    """The result of a run or of a dry run. `failed`: groups that could not be merged, with the reason."""

    is_dry_run: bool
    merged: list[tuple[DuplicateGroup, MergedGroup]] = field(default_factory=list)
    failed: dict[DuplicateGroup, str] = field(default_factory=dict)
    remaining: int = 0  # groups left after the run; 0 for a dry run

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON output: keys and ids, no personal data."""
        return {
            "dry_run": self.is_dry_run,
            "tables": {
                table: {
                    "groups": len({group for group, _ in merged}),
                    "archived": sum(len(effect.archived) for _, effect in merged),
                    "filled": sum(len(effect.filled) for _, effect in merged),
                    "repointed": sum(sum(effect.repointed.values()) for _, effect in merged),
                }
                for table in RULES
                if (merged := [pair for pair in self.merged if pair[0].table == table])
            },
            "groups": [
                {
                    "table": group.table,
                    "key": group.key_text,
                    "kept_id": merged.kept_id,
                    "archived": [
                        {"id": row_id, "archive_id": number} for row_id, number in merged.archived.items()
                    ],
                    "filled": merged.filled,
                    "repointed": merged.repointed,
                }
                for group, merged in self.merged
            ],
            "failed": [
                {"table": group.table, "key": group.key_text, "ids": group.ids, "reason": reason}
                for group, reason in self.failed.items()
            ],
            "left": self.remaining,
        }


def plan(url: str, on_progress: OnGroup) -> DeduplicationReport:
    """Return the effect that `run` would have on the database at `url` (libpq), without changes."""
    result = DeduplicationReport(is_dry_run=True)
    with runner.migration_engine(url) as engine, engine.connect() as connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        groups = _groups(connection)
        for number, group in enumerate(groups, 1):
            if merged := duplicate_groups.plan(connection, RULES[group.table], group):
                result.merged.append((group, merged))
            on_progress(number, len(groups))
    return result


def run(url: str, on_progress: OnGroup) -> DeduplicationReport:
    """Merge all groups of duplicates, including groups that appear during the run.

    A killed run continues when it is started again. A group that cannot be merged is left unchanged and
    reported in `failed`. Raises CommandError if a migration is running, or if other sessions do not release
    their locks.
    """
    result = DeduplicationReport(is_dry_run=False)
    with (
        runner.migration_engine(url) as engine,
        runner.migration_lock(engine, wait=False),
        engine.connect() as connection,
    ):
        if misplaced := schema_snapshot.search_path_problems(connection, RULES):
            raise MigrationRefused(
                f"archived_rows would be created in another schema than the tables: {'; '.join(misplaced)}."
            )
        connection.exec_driver_sql(runner.script_directory().get_revision("archive").module.TABLE)
        connection.commit()
        for _ in range(MAX_PASSES):
            groups = [group for group in _groups(connection) if not _is_known(group, result)]
            connection.commit()
            for number, group in enumerate(groups, 1):
                result.merged += [(group, merged) for merged in _merge(connection, group, result)]
                on_progress(number, len(groups))
            if not groups:
                break
        result.remaining = len(_groups(connection))
    return result


def _groups(connection: Connection) -> list[DuplicateGroup]:
    return [group for rule in RULES.values() for group in duplicate_groups.find_groups(connection, rule)]


def _is_known(group: DuplicateGroup, result: DeduplicationReport) -> bool:
    return any((failed.table, failed.key) == (group.table, group.key) for failed in result.failed)


def _merge(
    connection: Connection, group: DuplicateGroup, result: DeduplicationReport
) -> Iterator[MergedGroup]:
    """Merge a group in batches, one transaction each, with retries after lock timeouts; yield each effect."""
    try:
        while merged := with_lock_retries(
            lambda: _merge_batch(connection, group),
            attempts=runner.LOCK_ATTEMPTS,
            max_pause=runner.MAX_RETRY_PAUSE_SECONDS,
        ):
            yield merged
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        result.failed[group] = f"{constraint or 'a constraint'} would be violated"
    except DBAPIError as error:
        if lock_error(error) is None:
            raise
        raise CommandError(
            f"Other sessions hold locks on rows of {group.table} and do not release them."
            " Run the same command again to continue."
        ) from error


def _merge_batch(connection: Connection, group: DuplicateGroup) -> MergedGroup | None:
    with connection.begin():
        return duplicate_groups.merge(connection, RULES[group.table], group)
