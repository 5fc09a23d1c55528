"""The sync: what YClients has, brought into one company page by page, within the API's limits."""

import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from app.data_layer.operations import validate_instant
from app.data_layer.unit_of_work import UnitOfWork, validate_company_id
from app.errors import FrontdeskError, InvalidInputError, to_frontdesk_error
from app.frontdesk import Frontdesk
from app.observability.failure_reports import report
from app.repositories.mirrored_rows import MirroredRepository
from app.schemas.schema import Batch
from app.yclients.api.client import CLIENTS_PER_PAGE, RECORDS_PER_PAGE, YClientsClient, api_url
from app.yclients.api.paging import MAX_CONCURRENT_REQUESTS, PagedList, map_in_order, payload_id
from app.yclients.api.rate_limit import RateLimiter
from app.yclients.api.responses import ApiResponse
from app.yclients.errors import YClientsNotFoundError
from app.yclients.ingest import Ingest, RowProblem
from app.yclients.mapping.entities import (
    BOOKINGS,
    CLIENTS,
    COMPANY,
    KINDS,
    KINDS_BY_NAME,
    SCHEDULES,
    SERVICE_CATEGORIES,
    SERVICES,
    STAFF,
    EntityKind,
)
from app.yclients.mapping.values import calendar_date
from app.yclients.syncing.lock import hold_sync_lock
from app.yclients.syncing.run_record import RunRecord
from app.yclients.syncing.summary import SyncedKind, SyncSummary

SCHEDULE_DAYS = 30  # from today on
# A complete list that lacks more than half of what was there (and more than a few rows) is broken more
# likely than true.
MIN_DELETIONS = 10


@dataclass(frozen=True)
class SyncProgress:
    """How far the rows of one kind are; `total` is None where YClients does not say."""

    kind: str
    done: int
    total: int | None


OnProgress = Callable[[SyncProgress], None]


def sync(
    desk: Frontdesk,
    company_id: int,
    *,
    full: bool = False,
    since: datetime | None = None,
    only: Collection[str] | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    client: YClientsClient | None = None,
) -> SyncSummary:
    """Bring one company up to date with YClients.

    Of bookings, those changed since the last complete run are read; all of them with `full` or for the
    first time, those changed since `since` (aware) where it is given. `only` names kinds. What YClients
    lists in full (all but bookings) is compared, and what the list lacks is marked as deleted. Every page
    is a transaction, so a run that was killed leaves nothing half done, and the next one ends with the
    same data. A dry run reads everything, merges it and rolls it back. `client` is used and closed.

    Raises SyncRunningError where a sync of the company is running, InvalidInputError and
    ConfigurationError for what is wrong from the start, another FrontdeskError (YClientsError, say) where
    the run failed: it is recorded then, and reported to Sentry.
    """
    company_id = validate_company_id(company_id)
    kinds = _wanted(only)
    if full and since is not None:
        raise InvalidInputError("Give either full or since.")
    if since is not None:
        since = validate_instant("since", since)
    settings = desk.settings
    if client is None:
        client = YClientsClient(settings, RateLimiter(desk.database, api_url(settings).netloc.decode()))
    # The client is left first: it wakes the threads that wait for their turn.
    lock = hold_sync_lock(desk.database.live().settings, company_id)
    with lock, ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as executor, client:
        mode = "full" if full else "since" if since else "incremental"
        summary = SyncSummary(company_id, mode, dry_run, changed_after=since)
        intake = Ingest(desk, company_id, dry_run)
        return _Sync(client, executor, intake, summary, kinds, on_progress or (lambda _: None)).run()


def _wanted(only: Collection[str] | None) -> list[EntityKind]:
    unknown = sorted(set(only or ()) - set(KINDS_BY_NAME))
    if unknown or (only is not None and not only):
        raise InvalidInputError(fields={"only": f"must be some of {', '.join(KINDS_BY_NAME)}"})
    return [kind for kind in KINDS if only is None or kind.name in only]


class _Sync:
    """One run under way."""

    def __init__(
        self,
        client: YClientsClient,
        executor: Executor,
        ingest: Ingest,
        summary: SyncSummary,
        kinds: list[EntityKind],
        on_progress: OnProgress,
    ) -> None:
        self._client = client
        self._executor = executor
        self._ingest = ingest
        self._company_id = ingest.company_id
        self._kinds = kinds
        if not ingest.is_known and COMPANY not in kinds:
            self._kinds = [COMPANY, *kinds]  # nothing can be stored without it
        self._on_progress = on_progress
        self._began = time.perf_counter()
        self._staff_ids: list[int] | None = None
        self._bookings_are_complete = False
        self.summary = summary
        self._record = RunRecord(ingest, summary)

    def run(self) -> SyncSummary:
        """Do it all; whatever stops it is recorded."""
        readers: dict[EntityKind, Callable[[], None]] = {
            COMPANY: partial(self._sync_list, COMPANY, self._client.company),
            SERVICE_CATEGORIES: partial(self._sync_list, SERVICE_CATEGORIES, self._client.service_categories),
            SERVICES: partial(self._sync_list, SERVICES, self._client.services),
            STAFF: partial(self._sync_list, STAFF, self._client.staff),
            CLIENTS: self._sync_clients,
            SCHEDULES: self._sync_schedules,
            BOOKINGS: self._sync_bookings,
        }
        names = [kind.name for kind in self._kinds]
        try:
            for kind in self._kinds:
                self._record.start(names)
                counts = self.summary.kinds[kind.name] = SyncedKind()
                began = time.perf_counter()
                readers[kind]()
                counts.seconds = time.perf_counter() - began
            self._measure()
            self._record.start(names)
            self._record.succeed(self._bookings_are_complete)
        except (KeyboardInterrupt, SystemExit):
            self._measure()
            self._record.fail(names, FrontdeskError("The sync was stopped by hand."), code="interrupted")
            raise
        except Exception as error:  # whatever it was, the record must say that the run failed; it goes on up
            failure = to_frontdesk_error(error)
            report(error, "sync", self._company_id, component="yclients")
            self._measure()
            self._record.fail(names, failure)
            if failure is error:
                raise
            raise failure from error
        return self.summary

    # Reading

    def _sync_list(self, kind: EntityKind, fetch: Callable[[int], ApiResponse]) -> None:
        """What comes in one answer."""
        answer = fetch(self._company_id)
        batch = self._merge_chunk(kind, answer.rows, len(answer.rows))
        if kind is STAFF:
            self._staff_ids = [row["yclients_id"] for row in batch.rows if row.get("is_active", True)]
        if kind is not COMPANY:
            is_complete = answer.total is None or len(answer.rows) >= answer.total
            self._mark_missing_deleted(kind, {(payload_id(row),) for row in answer.rows}, is_complete)

    def _sync_clients(self) -> None:
        fetch = partial(self._client.clients, self._company_id)
        listing = PagedList(self._executor, fetch, CLIENTS_PER_PAGE)
        for rows in listing:
            self._merge_chunk(CLIENTS, rows, listing.total)
        self._mark_missing_deleted(CLIENTS, {(each,) for each in listing.seen_ids}, listing.is_complete)

    def _sync_bookings(self) -> None:
        """Deleted ones come with a mark, so there is nothing to compare."""
        zone = self._ingest.context().zone
        since = self.summary.changed_after and self.summary.changed_after.astimezone(zone)
        fetch = partial(self._client.records, self._company_id, changed_after=since)
        listing = PagedList(self._executor, fetch, RECORDS_PER_PAGE)
        for rows in listing:
            self._merge_chunk(BOOKINGS, rows, listing.total)
        self._bookings_are_complete = listing.is_complete
        if not listing.is_complete:
            self._note(BOOKINGS, "the list changed while it was read; the next run reads the same again")

    def _sync_schedules(self) -> None:
        first = datetime.now(self._ingest.context().zone).date()
        last = first + timedelta(days=SCHEDULE_DAYS)
        team = self._staff_ids
        if team is None:
            team = self._ingest.transact(
                lambda uow: [member.yclients_id for member in uow.staff.find_staff()]
            )
        team = sorted(set(team))

        def fetch(staff_id: int) -> ApiResponse | None:
            try:
                return self._client.schedule(self._company_id, staff_id, first, last)
            except YClientsNotFoundError:  # fired or deleted a moment ago
                return None

        seen: set[Any] = set()
        everyone_answered = True
        days = (last - first).days + 1
        for staff_id, answer in zip(team, map_in_order(self._executor, fetch, team), strict=True):
            if answer is None:
                self._note(SCHEDULES, f"YClients has none for staff member {staff_id}; ours are kept")
                everyone_answered = False
                continue
            self._merge_chunk(SCHEDULES, answer.rows, len(team) * days, staff_id)
            seen |= {
                (staff_id, calendar_date(row.get("date"))) for row in answer.rows if isinstance(row, dict)
            }
        if everyone_answered:  # those who left the team have no days any more
            self._mark_missing_deleted(SCHEDULES, seen, True, date__gte=first, date__lte=last)

    # Storing

    def _merge_chunk(
        self, kind: EntityKind, rows: Iterable[Any], total: int | None, staff_id: int | None = None
    ) -> Batch:
        """Store a page in a transaction of its own."""
        counts = self.summary.kinds[kind.name]
        context = self._ingest.context(staff_id)
        batch = self._ingest.new_batch(kind)
        for position, row in enumerate(rows, counts.rows):
            fault = self._ingest.add_payload(kind, batch, position, row, context)
            if fault is not None:
                self.summary.add_problem(kind.name, fault)
        report = self._ingest.merge_chunk(kind, batch)
        refused, report.rejected = report.rejected, []
        for row in refused:
            self.summary.add_problem(kind.name, RowProblem(row.position, row.key, True, row.errors))
        counts.add(report)
        self._on_progress(SyncProgress(kind.name, counts.rows, total))
        return batch

    def _mark_missing_deleted(
        self, kind: EntityKind, seen: set[Any], is_complete: bool, **within: Any
    ) -> None:
        """Mark as deleted what a complete list lacks; what came after the run began is left alone."""
        if not is_complete:
            self._note(kind, "the list changed while it was read; nothing is taken for deleted")
            return

        def mark(uow: UnitOfWork) -> int | None:
            repository = kind.select_repository(uow)
            assert isinstance(repository, MirroredRepository)  # noqa: S101 - all but company and bookings
            known = repository.find_ids_by_key(self._record.started_at, **within)
            missing = [ours for key, ours in known.items() if key not in seen]
            if missing and not self._is_believable(len(seen), len(missing), len(known)):
                return None
            return repository.mark_deleted(missing, self._record.started_at)

        marked = self._ingest.transact(mark)
        if marked is None:
            self._note(
                kind,
                "YClients lists none any more; nothing is taken for deleted"
                if not seen
                else "YClients' list lacks more than half of ours; nothing is taken for deleted."
                " If it is right, sync with --full",
            )
        self.summary.kinds[kind.name].deleted = marked or 0

    def _is_believable(self, seen: int, missing: int, known: int) -> bool:
        if not seen:
            return False
        return self.summary.mode == "full" or missing <= max(MIN_DELETIONS, known // 2)

    # Ending

    def _measure(self) -> None:
        self.summary.made_company = self._ingest.made_company
        self.summary.requests = self._client.request_count
        self.summary.seconds = time.perf_counter() - self._began

    def _note(self, kind: EntityKind, text: str) -> None:
        self.summary.notes.append(f"{kind.name}: {text}.")
