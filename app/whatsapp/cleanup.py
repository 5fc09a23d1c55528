"""Clean-up: delete what expired a grace ago, in small batches, one run at a time."""

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

KEYS_PER_TRANSACTION = 500  # keys a transaction: a worker that writes one of them waits a few milliseconds
OnProgress = Callable[[int, int], None]  # companies done, companies


@dataclass
class CleanupResult:
    """Keys by type: how many there were, are due (or were deleted), and are left.

    `is_skipped`: another run was under way, and this one did nothing. `protected_expired` are expired keys of
    protected types that the operator did not name.
    """

    is_dry_run: bool
    is_skipped: bool = False
    before: Mapping[str, int] = field(default_factory=dict)
    deleted: Counter[str] = field(default_factory=Counter)
    after: Mapping[str, int] = field(default_factory=dict)
    protected_expired: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        what = "due" if self.is_dry_run else "deleted"
        return {
            "ran": not self.is_skipped,
            "dry_run": self.is_dry_run,
            "types": {
                name: {"before": count, what: self.deleted[name], "after": self.after.get(name, 0)}
                for name, count in self.before.items()
            },
            what: self.deleted.total(),
            "protected_expired": self.protected_expired,
        }


def clean_up(
    settings: Settings,
    company_id: int | None = None,
    types: Iterable[str] = (),
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> CleanupResult:
    """Clean all companies up, or one; a failure is reported and raised as a FrontdeskError.

    `types` are the only ones to look at, and protected ones are looked at only then. What was deleted
    before a failure stays deleted.
    """
    result = CleanupResult(dry_run)
    try:
        with connect_directly(settings) as connection, _single_instance(connection, dry_run) as is_alone:
            if is_alone:
                _run(connection, settings, company_id, frozenset(types), result, on_progress)
            result.is_skipped = not is_alone
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
        each.expired
        for each in counted
        if each.key_type in PROTECTED_TYPES - set(cleaned) and retention.has_expiry(each.key_type)
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
        sessions = {each.company_id: each.total for each in counted if each.key_type == "session"}
        overview.record_max_sessions(connection, sessions)
    worth = sorted(
        {
            each.company_id
            for each in counted
            if each.key_type in due.by_idleness or (each.key_type in due.by_expiry and each.expired)
        }
    )
    for number, company in enumerate(worth, 1):
        while batch := overview.delete_batch(connection, due, company, KEYS_PER_TRANSACTION):
            result.deleted.update(batch)
            if len(batch) < KEYS_PER_TRANSACTION:
                break
        on_progress(number, len(worth))
    result.after = _by_type(overview.count_keys(connection, company_id))


@contextmanager
def _single_instance(connection: Connection, dry_run: bool) -> Iterator[bool]:
    """Whether this is the only run; the server frees the lock of a process that dies."""
    if dry_run:
        yield True
        return
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.WHATSAPP_CLEANUP,)).fetchone()
    is_alone = bool(row and row[0])
    try:
        yield is_alone
    finally:
        # Closing the connection would end the lock, too, but only a moment after.
        if is_alone and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (AdvisoryLock.WHATSAPP_CLEANUP,))


def _by_type(counted: Iterable[overview.KeyCount]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for each in counted:
        counts[each.key_type] += each.total
    return dict(sorted(counts.items()))
