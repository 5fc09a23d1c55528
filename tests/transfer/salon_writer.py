"""A writer that uses the data layer as the assistant does: every writing operation, on every table.

Values that the writer cannot predict (generated ids, write times) are not part of its states. Other checks
compare all rows of both sides.
"""

import random
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any, TypeVar

import psycopg
from pydantic import SecretStr

from app import Frontdesk, Settings
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import FrontdeskError
from app.repositories.sync_runs import SyncRunLog
from app.whatsapp.baileys_json import encode
from app.yclients.api.rate_limit import RateLimit, RateLimiter
from tests.transfer.journals import Journal, State

KIND = "data layer"
MAX_MERGED_ROWS = 1_000  # limit of the rows in a bulk merge
FIRST_MERGED_ID = 1_000  # the lowest YClients id of bulk-merged clients
T = TypeVar("T")
Call = Callable[[], object]
Act = Callable[[State], Call]

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

# `clients` and `staff`: number of rows, sum of the keys, lowest and highest version. `schedules`: the same
# without the sum.
EMPTY: State = {
    "title": "Salon", "branches": 0, "visits": None, "clients": [0, 0, None, None],
    "staff": [0, 0, None, None], "schedules": [0, None, None], "categories": [], "services": [],
    "performers": [], "bookings": [], "slots": 0, "dialogs": {}, "creds": None, "keys": {},
    "owner": None, "runs": [0, 0, 0], "turns": 0, "assistants": 0,
}  # fmt: skip
READ = f"""
SELECT jsonb_build_object(
    'title', (SELECT title FROM companies WHERE company_id = c),
    'branches', (SELECT count(*) FROM companies WHERE company_id / 1000 = c),
    'visits', (SELECT visit_count FROM clients WHERE company_id = c AND yclients_id = 1),
    'clients', (SELECT jsonb_build_array(count(*), coalesce(sum(yclients_id), 0), min(visit_count),
        max(visit_count)) FROM clients WHERE company_id = c AND yclients_id >= {FIRST_MERGED_ID}),
    'staff', (SELECT jsonb_build_array(count(*), coalesce(sum(yclients_id), 0), min(weight), max(weight))
        FROM staff WHERE company_id = c),
    'schedules', (SELECT jsonb_build_array(count(*), min(intervals::text), max(intervals::text))
        FROM staff_schedules WHERE company_id = c),
    'categories', (SELECT
        coalesce(jsonb_agg(jsonb_build_array(yclients_id, title) ORDER BY yclients_id), '[]')
        FROM service_categories WHERE company_id = c),
    'services', (SELECT coalesce(jsonb_agg(jsonb_build_array(yclients_id, title) ORDER BY yclients_id), '[]')
        FROM services WHERE company_id = c),
    'performers', (SELECT coalesce(jsonb_agg(jsonb_build_array(service_id, staff_id)), '[]')
        FROM (SELECT service_id, staff_id FROM service_staff WHERE company_id = c ORDER BY 1, 2) AS ordered),
    'bookings', (SELECT coalesce(jsonb_agg(jsonb_build_array(comment::int, extract(epoch FROM starts_at)::int,
        status, yclients_record_id, (SELECT count(*) FROM booking_services
        WHERE company_id = c AND booking = bookings.id)) ORDER BY comment::int), '[]')
        FROM bookings WHERE company_id = c),
    'slots', (SELECT count(*) FROM booking_slots WHERE company_id = c),
    'dialogs', (SELECT coalesce(jsonb_object_agg(user_id, context), '{{}}') FROM dialog_contexts
        WHERE company_id = c),
    'creds', (SELECT convert_from(creds, 'UTF8')::jsonb -> 'n' FROM whatsapp_auth WHERE company_id = c),
    'keys', (SELECT coalesce(jsonb_object_agg(key_type || key_id, md5(value)), '{{}}')
        FROM whatsapp_keys WHERE company_id = c),
    'owner', (SELECT owner FROM whatsapp_states WHERE company_id = c),
    'runs', (SELECT jsonb_build_array(count(*), count(finished_at), coalesce(sum(requests), 0))
        FROM sync_runs WHERE company_id = c),
    'assistants', (SELECT count(*) FROM clients WHERE company_id = c AND source = 'assistant'),
    'turns', (SELECT coalesce(sum(cardinality(granted)), 0) FROM request_budgets WHERE api = 'company ' || c)
) FROM (SELECT %s::bigint AS c) AS own
"""


def read(connection: psycopg.Connection[Any], company: int) -> State:
    """Return the rows of the company as a state."""
    row = connection.execute(READ, (company,)).fetchone()
    assert row is not None
    return dict(row[0])


class SalonWriter:
    """A writer with a Frontdesk instance that knows both database addresses."""

    def __init__(self, urls: list[str], company: int, kind: str, journal: Journal, seed: int) -> None:
        legacy, primary = map(SecretStr, urls)
        settings = Settings(database_url=primary, legacy_database_url=legacy, service_name=f"salon-{company}")
        self._desk = Frontdesk(settings)
        self._company = company
        self._salon = self._desk.company(company)
        # The limit is so high that no granted turn is ever removed from the table.
        self._limiter = RateLimiter(self._desk.database, f"company {company}", (RateLimit(1_000_000, 0.0),))
        self._journal = journal
        self._random = random.Random(seed)
        self._deck: list[Act] = []
        self._between: list[State] = []  # intermediate states of a call with two transactions

    def change(self) -> bool:
        """Run one operation; return False if it must be retried.

        Raises LostWriteError if acknowledged rows are missing, and FrontdeskError for other errors.
        """
        is_announced = False
        try:
            state = deepcopy(self._journal.check(self._read, self._enter))
            self._between = []
            call = self._next_act()(state)
            self._journal.intend(*self._between, state)
            is_announced = True
            call()
        except FrontdeskError as error:
            if not error.retryable:
                raise
            if error.code in ("unavailable", "timeout"):
                time.sleep(0.05)
            elif is_announced:
                self._journal.void()
            return False
        self._journal.acknowledge()
        return True

    def close(self) -> None:
        """Close all connections."""
        self._desk.close()

    def _transact(self, work: Callable[[UnitOfWork], T]) -> T:
        return self._desk.transact(self._company, work)

    def _read(self) -> State:
        return self._transact(lambda uow: read(_driver(uow), self._company))

    def _enter(self) -> None:
        self._transact(lambda uow: _driver(uow).execute("SELECT frontdesk_transfer.enter()"))

    def _next_act(self) -> Act:
        """Return the next action. All actions are used, in random order, before any is repeated.

        Actions that alternate between deleting and writing are listed more than once.
        """
        if not self._deck:
            self._deck = [
                self._rename, self._open_branch, self._visit, self._merge_clients,
                self._merge_staff, self._merge_staff, self._plan, self._plan, self._categorise,
                self._offer, self._mirror, self._book, self._change_booking, self._remember,
                self._pair, self._pair, self._pair, self._write_keys, self._hold, self._sync, self._sync,
                self._take_turn,
            ]  # fmt: skip
            self._random.shuffle(self._deck)
        return self._deck.pop()

    # Actions: each changes the expected state and returns a function that makes the same change.

    def _rename(self, state: State) -> Call:
        title = state["title"] = f"Salon {self._random.random()}"
        return lambda: self._salon.upsert_company({"title": title}).unwrap()

    def _open_branch(self, state: State) -> Call:
        branch = self._company * 1000 + state["branches"]
        state["branches"] += 1
        return lambda: self._desk.company(branch).upsert_company({"title": "Branch"}).unwrap()

    def _visit(self, state: State) -> Call:
        visits = state["visits"] = (state["visits"] or 0) + 1
        row = {"yclients_id": 1, "name": "Anna", "visit_count": visits}
        if visits % 2:
            return lambda: self._salon.upsert_client(row).unwrap()

        def in_a_block() -> None:
            """Write in a unit of work, which Frontdesk cannot retry: `change` does it if it is fenced."""
            with self._desk.unit_of_work(self._company) as uow:
                uow.clients.upsert(row)

        return in_a_block

    def _merge_clients(self, state: State) -> Call:
        """Merge clients in bulk: the first by COPY only, later ones as updates; then delete all of them."""
        count, _, version, _ = state["clients"]
        if count > 2 * MAX_MERGED_ROWS:
            state["visits"] = None
            state["clients"] = list(EMPTY["clients"])
            return lambda: self._transact(lambda uow: uow.clients.delete(yclients_id__gte=1))
        wanted = count + self._random.randint(MAX_MERGED_ROWS // 3, MAX_MERGED_ROWS)
        ids = range(FIRST_MERGED_ID, FIRST_MERGED_ID + wanted)
        version = 1 if version is None else version + 1
        state["clients"] = [wanted, sum(ids), version, version]
        rows = [{"yclients_id": n, "name": f"Client {n}", "visit_count": version} for n in ids]
        return lambda: self._salon.upsert_clients(rows).unwrap()

    def _merge_staff(self, state: State) -> Call:
        if state["staff"][0] and self._random.random() < 0.3:
            state["staff"] = list(EMPTY["staff"])
            return lambda: self._transact(lambda uow: uow.staff.delete(yclients_id__gte=1))
        count = max(state["staff"][0], self._random.randint(1, 200)) + 1
        weight = (state["staff"][3] or 0) + 1
        state["staff"] = [count, count * (count + 1) // 2, weight, weight]
        rows = [{"yclients_id": n, "name": "Olga", "weight": weight} for n in range(1, count + 1)]
        return lambda: self._salon.upsert_staff(rows).unwrap()

    def _plan(self, state: State) -> Call:
        if state["schedules"][0] > 60:
            state["schedules"] = list(EMPTY["schedules"])
            return lambda: self._transact(lambda uow: uow.staff_schedules.delete(staff_id=7))
        hour = self._random.randint(10, 19)
        days = state["schedules"][0] + self._random.randint(1, 60)
        kept = f'[{{"to": "20:00", "from": "{hour}:00"}}]'
        state["schedules"] = [days, kept, kept]
        intervals = [{"from": f"{hour}:00", "to": "20:00"}]
        rows = [
            {"staff_id": 7, "date": START.date() + timedelta(days=n), "intervals": intervals}
            for n in range(days)
        ]
        return lambda: self._salon.upsert_staff_schedules(rows).unwrap()

    def _categorise(self, state: State) -> Call:
        state["categories"] = [[n, f"Hair {self._random.random()}"] for n in range(1, 4)]
        rows = [{"yclients_id": number, "title": title} for number, title in state["categories"]]
        return lambda: self._transact(lambda uow: uow.service_categories.bulk_upsert(rows))

    def _offer(self, state: State) -> Call:
        """Upsert services and replace the members of staff assigned to them."""
        title = f"Cut {self._random.random()}"
        members = sorted(self._random.sample(range(1, 9), 3))
        state["services"] = [[n, title] for n in range(1, 6)]
        state["performers"] = [[n, member] for n in range(1, 6) for member in members]
        staff = [{"staff_id": member} for member in members]
        rows = [{"yclients_id": n, "title": title, "staff": staff} for n in range(1, 6)]
        return lambda: self._salon.upsert_services(rows).unwrap()

    def _mirror(self, state: State) -> Call:
        """Upsert a booking as received from YClients."""
        number = self._random.randint(1, 5)
        start = START - number * timedelta(days=1) + self._random.randint(0, 5) * HOUR
        known = [booking for booking in state["bookings"] if booking[0] == -number]
        if known:
            known[0][1] = int(start.timestamp())
        else:
            state["bookings"].append([-number, int(start.timestamp()), "active", number, 1])
            state["bookings"].sort()
            state["slots"] += 1
        row = {"yclients_record_id": number, "starts_at": start, "ends_at": start + HOUR, "staff_id": 8}
        return lambda: self._salon.upsert_booking({**row, "services": [41], "comment": str(-number)}).unwrap()

    def _book(self, state: State) -> Call:
        number = 1 + max([0, *(booking[0] for booking in state["bookings"])])
        start = START + 3 * number * HOUR
        state["bookings"].append([number, int(start.timestamp()), "active", None, 2])
        state["slots"] += 1
        state["assistants"] = 1
        client = {"name": "Ira", "phone": "+79686484499"}
        booking = {"staff_id": 7, "starts_at": start, "duration": 3600, "services": [41, 42]}
        return lambda: self._salon.create_booking(client, {**booking, "comment": str(number)}).unwrap()

    def _change_booking(self, state: State) -> Call:
        """Move, confirm, cancel or delete a booking that `_book` has made."""
        own = [booking for booking in state["bookings"] if booking[0] > 0]
        if not own:
            return self._book(state)
        booking = self._random.choice(own)
        number, seconds, status, record, _ = booking
        if len(own) > 20 or status == "cancelled":
            state["bookings"].remove(booking)
            state["slots"] -= status == "active"
            return lambda: self._transact(lambda uow: uow.bookings.delete(comment=str(number)))
        match self._random.choice(["move", "confirm", "cancel"]):
            case "move":
                start = datetime.fromtimestamp(seconds, UTC)
                start += HOUR if start == START + 3 * number * HOUR else -HOUR
                booking[1] = int(start.timestamp())
                return lambda: self._salon.reschedule_booking(self._id_of(number), start).unwrap()
            case "confirm":
                booking[3] = record = record or 1_000 + number
                return lambda: self._salon.confirm_booking(self._id_of(number), record).unwrap()
        booking[2] = "cancelled"
        state["slots"] -= 1
        return lambda: self._salon.cancel_booking(self._id_of(number)).unwrap()

    def _id_of(self, number: int) -> int:
        booking = self._transact(lambda uow: uow.bookings.find_one(comment=str(number)))
        assert booking is not None
        return booking.id

    def _remember(self, state: State) -> Call:
        user = str(self._random.randint(1, 9))
        context = self._random.choice([{"asked": None}, {"slots": [1, None, ""]}, {"text": "й" * 300}])
        state["dialogs"][user] = context
        return lambda: self._salon.upsert_dialog_context(user, {"stage": "ask", "context": context}).unwrap()

    def _pair(self, state: State) -> Call:
        """Store the first credentials, then the next ones, then delete the session with its rows."""
        if state["creds"] == 2:
            state |= {"creds": None, "keys": {}, "owner": None}
            return lambda: self._salon.whatsapp.delete_session().unwrap()
        number = state["creds"] = (state["creds"] or 0) + 1

        def write() -> None:
            known = self._salon.whatsapp.get_creds().unwrap()
            self._salon.whatsapp.set_creds({"n": number}, known and known.version).unwrap()

        return write

    def _write_keys(self, state: State) -> Call:
        """Write session keys of different sizes, some containing JSON null, and delete one key."""
        value = {"n": self._random.random(), "none": None, "text": "\0 й"}
        big = {"type": "Buffer", "data": "QUJD" * 30_000}
        keys: dict[str, Any] = {str(n): value for n in range(5)}
        keys[str(self._random.randint(5, 7))] = big
        gone = str(self._random.randint(0, 7))
        for number, key in keys.items():
            state["keys"][f"session{number}"] = md5(encode(key), usedforsecurity=False).hexdigest()
        state["keys"].pop(f"session{gone}", None)
        return lambda: self._salon.whatsapp.set_keys({"session": {**keys, gone: None}}).unwrap()

    def _hold(self, state: State) -> Call:
        owner = state["owner"] = f"worker {self._random.random()}"
        return lambda: self._salon.whatsapp.take_lease(owner).unwrap()

    def _sync(self, state: State) -> Call:
        """Start a sync run, or finish the current one."""
        count, finished, requests = state["runs"]
        if count == finished:
            state["runs"][0] += 1
            return lambda: self._runs(lambda runs: runs.start("full", ["clients"], START, None))
        state["runs"][1:] = [finished + 1, requests + 3]

        def finish(runs: SyncRunLog) -> None:
            (run,) = runs.latest(1)
            runs.finish(run.id, {"clients": None}, 3)

        return lambda: self._runs(finish)

    def _runs(self, work: Callable[[SyncRunLog], object]) -> None:
        self._transact(lambda uow: work(SyncRunLog(uow.session, self._company)))

    def _take_turn(self, state: State) -> Call:
        """Reserve a turn, then rename the company.

        The turn's commit is asynchronous, so a killed server may lose a turn without a later commit.
        """
        state["turns"] += 1
        self._between = [deepcopy(state)]
        rename = self._rename(state)

        def take_turn() -> None:
            self._limiter.reserve()
            rename()

        return take_turn


def _driver(uow: UnitOfWork) -> psycopg.Connection[Any]:
    connection: Any = uow.session.connection().connection.driver_connection
    driver: psycopg.Connection[Any] = connection
    return driver
