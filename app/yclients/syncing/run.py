"""Sync of one company: read all kinds of rows from YClients and merge them page by page."""

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
# If a complete list lacks more than half of the stored rows, and more than this number, an error of YClients
# is more likely than so many deletions.
MIN_DELETIONS = 10


@dataclass(frozen=True)
class SyncProgress:
    """Number of merged rows of one kind. YClients may not report a total (None)."""

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
    """Sync one company with YClients and return the summary.

    Bookings are read if they changed since the last complete run, or since `since` (an aware datetime); all
    are read with `full` and in the first run. `only` limits the sync to these kinds. All kinds except
    bookings are read completely, and stored rows that are missing in YClients are marked as deleted. Each
    page is one transaction, so after a kill the next run continues. A dry run merges each page and rolls it
    back. `client` is used instead of a new client, and closed.

    Raises SyncRunningError if a sync of the company is running, InvalidInputError or ConfigurationError for
    invalid arguments or settings, and another FrontdeskError, such as YClientsError, if the run failed. A
    failed run is recorded and reported to Sentry.
    """
    company_id = validate_company_id(company_id)
    kinds = _select_kinds(only)
    if full and since is not None:
        raise InvalidInputError("Use either full or since, not both.")
    if since is not None:
        since = validate_instant("since", since)
    settings = desk.settings
    if client is None:
        client = YClientsClient(settings, RateLimiter(desk.database, api_url(settings).netloc.decode()))
    # The client is closed first, which wakes the threads that wait for the rate limit.
    lock = hold_sync_lock(desk.database.live().settings, company_id)
    with lock, ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as executor, client:
        mode = "full" if full else "since" if since else "incremental"
        summary = SyncSummary(company_id, mode, dry_run, changed_after=since)
        ingest = Ingest(desk, company_id, dry_run)
        return _Sync(client, executor, ingest, summary, kinds, on_progress or (lambda _: None)).run()


def _select_kinds(only: Collection[str] | None) -> list[EntityKind]:
    unknown = sorted(set(only or ()) - set(KINDS_BY_NAME))
    if unknown or (only is not None and not only):
        raise InvalidInputError(fields={"only": f"must be some of {', '.join(KINDS_BY_NAME)}"})
    return [kind for kind in KINDS if only is None or kind.name in only]


class _Sync:
    """One run of the sync."""

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
            self._kinds = [COMPANY, *kinds]  # all other rows reference the company
        self._on_progress = on_progress
        self._began = time.perf_counter()
        self._staff_ids: list[int] | None = None
        self._bookings_are_complete = False
        self.summary = summary
        self._record = RunRecord(ingest, summary)

    def run(self) -> SyncSummary:
        """Run the sync and record its end or its failure."""
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
        except Exception as error:  # recorded as the failure of the run, and raised again
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
        """Sync a kind whose rows are in one response."""
        response = fetch(self._company_id)
        batch = self._merge_chunk(kind, response.rows, len(response.rows))
        if kind is STAFF:
            self._staff_ids = [row["yclients_id"] for row in batch.rows if row.get("is_active", True)]
        if kind is not COMPANY:
            is_complete = response.total is None or len(response.rows) >= response.total
            self._mark_missing_deleted(kind, {(payload_id(row),) for row in response.rows}, is_complete)

    def _sync_clients(self) -> None:
        fetch = partial(self._client.clients, self._company_id)
        listing = PagedList(self._executor, fetch, CLIENTS_PER_PAGE)
        for rows in listing:
            self._merge_chunk(CLIENTS, rows, listing.total)
        self._mark_missing_deleted(CLIENTS, {(row_id,) for row_id in listing.seen_ids}, listing.is_complete)

    def _sync_bookings(self) -> None:
        """Sync bookings. YClients marks deleted bookings, so missing ones are not searched."""
        zone = self._ingest.context().zone
        since = self.summary.changed_after and self.summary.changed_after.astimezone(zone)
        fetch = partial(self._client.records, self._company_id, changed_after=since)
        listing = PagedList(self._executor, fetch, RECORDS_PER_PAGE)
        for rows in listing:
            self._merge_chunk(BOOKINGS, rows, listing.total)
        self._bookings_are_complete = listing.is_complete
        if not listing.is_complete:
            self._note(BOOKINGS, "the list changed while it was read; the next run reads it again")

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
            except YClientsNotFoundError:  # deleted since the list of staff was read
                return None

        seen: set[Any] = set()
        is_complete = True
        days = (last - first).days + 1
        for staff_id, response in zip(team, map_in_order(self._executor, fetch, team), strict=True):
            if response is None:
                self._note(
                    SCHEDULES, f"YClients has none for staff member {staff_id}; the stored ones are kept"
                )
                is_complete = False
                continue
            self._merge_chunk(SCHEDULES, response.rows, len(team) * days, staff_id)
            seen |= {
                (staff_id, calendar_date(row.get("date"))) for row in response.rows if isinstance(row, dict)
            }
        if is_complete:  # also marks the schedules of former staff
            self._mark_missing_deleted(SCHEDULES, seen, True, date__gte=first, date__lte=last)

    # Storing

    def _merge_chunk(
        self, kind: EntityKind, rows: Iterable[Any], total: int | None, staff_id: int | None = None
    ) -> Batch:
        """Merge a page in one transaction; return the valid rows."""
        counts = self.summary.kinds[kind.name]
        context = self._ingest.context(staff_id)
        batch = self._ingest.new_batch(kind)
        for position, row in enumerate(rows, counts.rows):
            problem = self._ingest.add_payload(kind, batch, position, row, context)
            if problem is not None:
                self.summary.add_problem(kind.name, problem)
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
        """Mark stored rows as deleted that a complete list lacks, unless they changed since the run began."""
        if not is_complete:
            self._note(kind, "the list changed while it was read; nothing is marked as deleted")
            return

        def mark(uow: UnitOfWork) -> int | None:
            repository = kind.select_repository(uow)
            assert isinstance(repository, MirroredRepository)  # noqa: S101 - all but company and bookings
            stored = repository.find_ids_by_key(self._record.started_at, **within)
            missing = [row_id for key, row_id in stored.items() if key not in seen]
            if missing and not self._is_plausible(len(seen), len(missing), len(stored)):
                return None
            return repository.mark_deleted(missing, self._record.started_at)

        marked = self._ingest.transact(mark)
        if marked is None:
            self._note(
                kind,
                "YClients returns an empty list; nothing is marked as deleted"
                if not seen
                else "the list of YClients lacks more than half of the stored rows;"
                " nothing is marked as deleted. If the list is right, sync with --full",
            )
        self.summary.kinds[kind.name].deleted = marked or 0

    def _is_plausible(self, seen: int, missing: int, stored: int) -> bool:
        if not seen:
            return False
        return self.summary.mode == "full" or missing <= max(MIN_DELETIONS, stored // 2)

    # Ending

    def _measure(self) -> None:
        self.summary.made_company = self._ingest.made_company
        self.summary.requests = self._client.request_count
        self.summary.seconds = time.perf_counter() - self._began

    def _note(self, kind: EntityKind, text: str) -> None:
        self.summary.notes.append(f"{kind.name}: {text}.")
