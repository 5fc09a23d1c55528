"""Clean-up: delete keys whose expiry and grace period have passed, in small batches, one run at a time."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.config import Settings
from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection, connect_directly
from app.errors import DRIVER_ERRORS, UnknownCompanyError, to_frontdesk_error
from app.observability.failure_reports import report
from app.repositories import whatsapp_all_companies as overview
from app.whatsapp.retention import DELETION_GRACE_PERIOD, IDLE_PERIOD, PROTECTED_TYPES, Retention

KEYS_PER_TRANSACTION = 500  # a worker that writes one of them waits for a few milliseconds
OnProgress = Callable[[int, int], None]  # (companies done, companies in total)


@dataclass
class CleanupResult:
    """Numbers of keys by type: before, deleted (or due in a dry run), and after.

    `is_skipped` is True if another run was in progress, so that this one did nothing. `protected_expired`
    is the number of expired keys of protected types that the operator did not name.
    """

    is_dry_run: bool
    is_skipped: bool = False
    before: Mapping[str, int] = field(default_factory=dict)
    deleted: Counter[str] = field(default_factory=Counter)
    after: Mapping[str, int] = field(default_factory=dict)
    protected_expired: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        verb = "due" if self.is_dry_run else "deleted"
        return {
            "ran": not self.is_skipped,
            "dry_run": self.is_dry_run,
            "types": {
                name: {"before": count, verb: self.deleted[name], "after": self.after.get(name, 0)}
                for name, count in self.before.items()
            },
            verb: self.deleted.total(),
            "protected_expired": self.protected_expired,
        }


def clean_up(
    settings: Settings,
    company_id: int | None = None,
    types: Iterable[str] = (),
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> CleanupResult:
    """Delete expired keys of one company or of all.

    `types` limits the clean-up to these key types. Protected types are cleaned up only if named there.
    Raises FrontdeskError, after reporting it, if the database fails; batches deleted before that stay
    deleted.
    """
    result = CleanupResult(dry_run)
    try:
        with connect_directly(settings) as connection, _single_instance(connection, dry_run) as is_single:
            if is_single:
                _run(connection, settings, company_id, frozenset(types), result, on_progress)
            result.is_skipped = not is_single
    except DRIVER_ERRORS as error:
        report(error, "cleanup", company_id, component="whatsapp")
        raise to_frontdesk_error(error) from error
    return result


def _run(
    connection: Connection,
    settings: Settings,
    company_id: int | None,
    requested_types: frozenset[str],
    result: CleanupResult,
    on_progress: OnProgress,
) -> None:
    if company_id is not None and not overview.read_session_states(connection, company_id):
        raise UnknownCompanyError
    retention = Retention.from_settings(settings)
    counted = overview.count_keys(connection, company_id)
    result.before = result.after = _by_type(counted)
    cleaned = [name for name in result.before if retention.is_deletable(name, requested_types)]
    result.protected_expired = sum(
        count.expired
        for count in counted
        if count.key_type in PROTECTED_TYPES - set(cleaned) and retention.has_expiry(count.key_type)
    )
    due = overview.DeletionCriteria(
        by_expiry=[name for name in cleaned if not retention.is_deleted_by_idleness(name)],
        grace=DELETION_GRACE_PERIOD,
        by_idleness=[name for name in cleaned if retention.is_deleted_by_idleness(name)],
        idle=IDLE_PERIOD,
    )
    if result.is_dry_run:
        result.deleted.update(overview.count_deletable(connection, due, company_id))
        result.after = {name: count - result.deleted[name] for name, count in result.before.items()}
        return
    if "session" in cleaned:
        sessions = {count.company_id: count.total for count in counted if count.key_type == "session"}
        overview.record_max_sessions(connection, sessions)
    affected = sorted(
        {
            count.company_id
            for count in counted
            if count.key_type in due.by_idleness or (count.key_type in due.by_expiry and count.expired)
        }
    )
    for number, company in enumerate(affected, 1):
        while batch := overview.delete_batch(connection, due, company, KEYS_PER_TRANSACTION):
            result.deleted.update(batch)
            if len(batch) < KEYS_PER_TRANSACTION:
                break
        on_progress(number, len(affected))
    result.after = _by_type(overview.count_keys(connection, company_id))


@contextmanager
def _single_instance(connection: Connection, dry_run: bool) -> Iterator[bool]:
    """Hold the clean-up lock during the block; yield False if another run holds it.

    The server releases the lock if the process is killed.
    """
    if dry_run:
        yield True
        return
    ((is_single,),) = connection.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.WHATSAPP_CLEANUP,))
    try:
        yield is_single
    finally:
        # Closing the connection releases the lock too, but with a delay.
        if is_single and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (AdvisoryLock.WHATSAPP_CLEANUP,))


def _by_type(counted: Iterable[overview.KeyCount]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for count in counted:
        counts[count.key_type] += count.total
    return dict(sorted(counts.items()))
