"""No repository method can read or write another company's row."""

import inspect
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from app import Frontdesk
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import ConflictError, InvalidInputError
from app.models import Client
from app.repositories import Repositories
from app.repositories.booking_slots import BookingSlots
from tests.factories import (
    BookingRow,
    ClientRow,
    CompanyRow,
    DialogRow,
    NewBookingRow,
    NewClientRow,
    ServiceCategoryRow,
    ServiceRow,
    StaffRow,
    StaffScheduleRow,
    WhatsAppAuthRow,
    WhatsAppKeyRow,
)
from tests.factories.booking import NOON

PHONE = "+79686484488"
DAY = date(2026, 12, 1)
LATE = datetime(2100, 1, 1, tzinfo=UTC)
CHILDREN = ("service_staff", "booking_services", "booking_slots")
Attack = Callable[[UnitOfWork, SimpleNamespace], Any]


class Refused(NamedTuple):
    """An attack that must raise exactly this error; an attack without an error must return."""

    attack: Attack
    error: type[Exception]
    match: str


Case = Attack | Refused

# Rows with the keys of the other company's rows and other values, as an attack would write them.
ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "companies": lambda: CompanyRow(title="Taken over"),
    "clients": lambda: ClientRow(yclients_id=1, phone=PHONE, name="Taken over"),
    "service_categories": lambda: ServiceCategoryRow(yclients_id=1, title="Taken over"),
    "services": lambda: ServiceRow(yclients_id=1, title="Taken over", staff=[{"staff_id": 99}]),
    "staff": lambda: StaffRow(yclients_id=1, name="Taken over"),
    "staff_schedules": lambda: StaffScheduleRow(staff_id=1, date=DAY, is_working=False),
    "bookings": lambda: BookingRow(yclients_record_id=1, starts_at=NOON, comment="Taken over", services=[9]),
    "dialog_contexts": lambda: DialogRow(user_id="u", stage="Taken over"),
    "whatsapp_auth": lambda: WhatsAppAuthRow(creds=b"Taken over"),
    "whatsapp_keys": lambda: WhatsAppKeyRow(key_id="1", value=b"Taken over"),
}
BY_IDS: dict[str, Any] = {"dialog_contexts": ["u"]}


def _shared(name: str) -> dict[str, Case]:
    """Return the cases of the methods that every repository has."""

    def of(uow: UnitOfWork) -> Any:
        return getattr(uow, name)

    return {
        "find_one": lambda uow, theirs: of(uow).find_one(id=theirs.ids[name]),
        "find_many": lambda uow, theirs: [
            *of(uow).find_many(id__in=[theirs.ids[name]]),
            *of(uow).find_many(company_id=theirs.company_id),
            *of(uow).find_many(company_id__ne=uow.tenant.company_id),
        ],
        "find_by_ids": lambda uow, theirs: of(uow).find_by_ids(
            [theirs.ids[name]] if of(uow)._id_column == "id" else BY_IDS.get(name, [1])
        ),
        "count": lambda uow, theirs: of(uow).count(id=theirs.ids[name]),
        "upsert": lambda uow, theirs: of(uow).upsert(ROWS[name]()),
        "bulk_upsert": lambda uow, theirs: of(uow).bulk_upsert([ROWS[name]()]).inserted and None,
        "delete": lambda uow, theirs: (
            of(uow).delete(id=theirs.ids[name]) + of(uow).delete(company_id=theirs.company_id)
        ),
        "validate": lambda uow, theirs: (
            of(uow)
            .bulk_upsert(of(uow).validate([{**ROWS[name](), "company_id": theirs.company_id}]))
            .inserted
        ),
        "deduplicate": lambda uow, theirs: (
            of(uow)
            .deduplicate(of(uow).validate([ROWS[name]()]))
            .merge_in_order(of(uow).merge_distinct)
            .inserted
            and None
        ),
        "merge_distinct": lambda uow, theirs: (
            of(uow).merge_distinct(of(uow).validate([ROWS[name]()])).inserted and None
        ),
    }


CASES: dict[str, dict[str, Case]] = {name: _shared(name) for name in ROWS}
CASES["companies"]["get"] = lambda uow, theirs: uow.companies.get()
CASES["clients"] |= {
    "find_by_phone": lambda uow, theirs: uow.clients.find_by_phone(PHONE),
    "search_by_name": lambda uow, theirs: uow.clients.search_by_name("Theirs", 10),
    "page": lambda uow, theirs: uow.clients.page(100, None),
    "find_or_create": lambda uow, theirs: uow.clients.find_or_create({"name": "Taken over", "phone": PHONE}),
    "set_yclients_id": lambda uow, theirs: uow.clients.set_yclients_id("+79680000000", 77),
}
CASES["services"] |= {
    "price_list": lambda uow, theirs: uow.services.price_list(include_inactive=True),
    "in_category": lambda uow, theirs: uow.services.in_category(5),
}
CASES["dialog_contexts"]["find_by_user"] = lambda uow, theirs: uow.dialog_contexts.find_by_user("u")
CASES["staff"]["find_staff"] = lambda uow, theirs: uow.staff.find_staff(include_inactive=True)
CASES["whatsapp_auth"] |= {
    "insert_first": lambda uow, theirs: uow.whatsapp_auth.insert_first(b"Taken over") and None,
    "replace_version": lambda uow, theirs: uow.whatsapp_auth.replace_version(b"Taken over", 1),
}
CASES["whatsapp_keys"] |= {
    "values": lambda uow, theirs: uow.whatsapp_keys.values("session", ["1"]),
    "count_by_type": lambda uow, theirs: uow.whatsapp_keys.count_by_type(),
    "write": lambda uow, theirs: uow.whatsapp_keys.write(
        [("session", "2", b"Taken over", None)], [("session", "1")]
    ),
}
CASES["staff_schedules"] |= {
    "between": lambda uow, theirs: uow.staff_schedules.between(DAY, DAY, 1),
    "find_availability": lambda uow, theirs: uow.staff_schedules.find_availability(
        DAY, NOON, NOON + timedelta(days=1), 1
    ),
}
CASES["bookings"] |= {
    "between": lambda uow, theirs: uow.bookings.between(NOON, NOON + timedelta(days=1)),
    "find_by_client_phone": lambda uow, theirs: uow.bookings.find_by_client_phone(
        PHONE, None, None, include_cancelled=True
    ),
    "find_for_update": lambda uow, theirs: uow.bookings.find_for_update(theirs.ids["bookings"]),
    # TestRowsThatNameAnotherCompany covers values with another company: they raise TypeError.
    "add": lambda uow, theirs: (
        uow.bookings.add(
            {
                "id": theirs.ids["bookings"],
                "yclients_record_id": 1,
                "starts_at": NOON,
                "ends_at": NOON + timedelta(hours=1),
            },
            [{"service_id": 9}],
        )
        and None
    ),
    "update_columns": lambda uow, theirs: uow.bookings.update_columns(
        theirs.ids["bookings"], {"comment": "Taken over"}
    ),
    "confirm": lambda uow, theirs: uow.bookings.confirm(theirs.booking, 4711),
    "slots": lambda uow, theirs: None,  # SLOTS has the cases of its methods
}
SLOTS: dict[str, Case] = {
    "reserve": Refused(
        lambda uow, theirs: uow.bookings.slots.reserve(
            theirs.ids["bookings"], 7, NOON + timedelta(days=9), NOON + timedelta(days=10)
        ),
        ConflictError,
        "fk_booking_slots_company_id_booking_bookings",
    ),
    "release": lambda uow, theirs: uow.bookings.slots.release(theirs.ids["bookings"]),
    "mirror": lambda uow, theirs: uow.bookings.slots.mirror([theirs.ids["bookings"]]),
}
READS = {
    *("find_one", "find_many", "find_by_ids", "count", "get", "find_by_phone", "search_by_name", "page"),
    *(
        "price_list",
        "in_category",
        "find_by_user",
        "find_staff",
        "values",
        "count_by_type",
        "between",
        "find_availability",
    ),
    *("find_by_client_phone", "find_for_update", "find_ids_by_key"),
}
for listed in ("clients", "service_categories", "services", "staff", "staff_schedules"):
    CASES[listed] |= {
        "find_ids_by_key": lambda uow, theirs, name=listed: getattr(uow, name).find_ids_by_key(LATE),
        "mark_deleted": lambda uow, theirs, name=listed: getattr(uow, name).mark_deleted(
            [theirs.ids[name]], LATE
        ),
    }


def public_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} - {
        "model",
        "schema",
        "target",
        "was_written",
    }


def fill(salon: DataLayer, desk: Frontdesk) -> SimpleNamespace:
    """Insert a row of the company in every table; return the company id, the row ids and a booking."""
    booking = salon.create_booking(
        NewClientRow(name="Theirs", phone="+79680000000"), NewBookingRow(services=[1])
    ).unwrap()
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.upsert(ClientRow(yclients_id=1, phone=PHONE, name="Theirs"))
        uow.service_categories.upsert(ServiceCategoryRow(yclients_id=1))
        uow.services.upsert(ServiceRow(yclients_id=1, category_id=5, staff=[{"staff_id": 7}]))
        uow.staff.upsert(StaffRow(yclients_id=1))
        uow.staff_schedules.upsert(StaffScheduleRow(staff_id=1, date=DAY))
        uow.bookings.upsert(
            BookingRow(yclients_record_id=1, starts_at=NOON, client_phone=PHONE, services=[1])
        )
        uow.dialog_contexts.upsert(DialogRow(user_id="u"))
        uow.whatsapp_auth.upsert(WhatsAppAuthRow())
        uow.whatsapp_keys.upsert(WhatsAppKeyRow(key_id="1"))
        ids = {name: getattr(uow, name).find_one().id for name in ROWS}
    return SimpleNamespace(company_id=salon.company_id, ids=ids, booking=booking)


def everything_of(url: str, company_id: int) -> dict[str, list[Any]]:
    """Return every row of a company with `xmin` and `ctid`, which change when a row is rewritten."""
    with psycopg.connect(url) as connection:
        return {
            name: connection.execute(
                sql.SQL("SELECT xmin, ctid, t.* FROM {} AS t WHERE company_id = %s ORDER BY id").format(
                    sql.Identifier(name)
                ),
                (company_id,),
            ).fetchall()
            for name in (*ROWS, *CHILDREN)
        }


def records(result: Any) -> list[Any]:
    """Return the records in the result of a method, without None and 0."""
    items = result if isinstance(result, Iterable) and not isinstance(result, str) else [result]
    return [item for item in items if item not in (None, 0)]


class TestNoMethodCrossesCompanies:
    @pytest.fixture(scope="class")
    @staticmethod
    def theirs(new_company: Callable[..., DataLayer], desk: Frontdesk) -> SimpleNamespace:
        return fill(new_company(), desk)

    def test_every_public_method_has_a_case(self) -> None:
        repositories = Repositories(tenant=None, reader=None)  # type: ignore[arg-type] # nothing is called
        assert {
            name: public_methods(type(getattr(repositories, name)))
            for name, attribute in vars(Repositories).items()
            if isinstance(attribute, cached_property)
        } == {name: set(cases) for name, cases in CASES.items()}
        assert public_methods(BookingSlots) == set(SLOTS)

    @pytest.mark.parametrize(
        ("name", "method"), [*((name, method) for name, cases in CASES.items() for method in cases)]
    )
    def test_a_repository_method_does_not_cross_companies(
        self,
        desk: Frontdesk,
        salon: DataLayer,
        theirs: SimpleNamespace,
        settings: Any,
        name: str,
        method: str,
    ) -> None:
        self.attack(desk, salon, theirs, settings, CASES[name][method])

    @pytest.mark.parametrize(
        ("name", "method"),
        [(name, method) for name, cases in CASES.items() for method in cases if method in READS],
    )
    def test_a_read_finds_rows_of_its_own_company(
        self, desk: Frontdesk, theirs: SimpleNamespace, name: str, method: str
    ) -> None:
        """Control: the rows that the attacks must not find do exist."""
        with desk.unit_of_work(theirs.company_id) as uow:
            assert records(CASES[name][method](uow, theirs))

    @pytest.mark.parametrize("method", SLOTS)
    def test_a_slot_method_does_not_cross_companies(
        self, desk: Frontdesk, salon: DataLayer, theirs: SimpleNamespace, settings: Any, method: str
    ) -> None:
        self.attack(desk, salon, theirs, settings, SLOTS[method])

    @staticmethod
    def attack(desk: Frontdesk, salon: DataLayer, theirs: SimpleNamespace, settings: Any, case: Case) -> None:
        url = settings.database_url.get_secret_value()
        before = everything_of(url, theirs.company_id)
        assert all(before.values()), "the other company has a row in every table"
        if isinstance(case, Refused):
            with (
                pytest.raises(case.error, match=case.match) as raised,
                desk.unit_of_work(salon.company_id) as uow,
            ):
                case.attack(uow, theirs)
            assert type(raised.value) is case.error
        else:
            with desk.unit_of_work(salon.company_id) as uow:
                result = case(uow, theirs)
            for record in records(result):
                assert record.company_id == salon.company_id
        assert everything_of(url, theirs.company_id) == before


class TestRowsThatNameAnotherCompany:
    @pytest.mark.parametrize("name", ROWS)
    def test_a_single_row_is_refused(self, uow: UnitOfWork, name: str) -> None:
        with pytest.raises(InvalidInputError, match="company_id: names another company"):
            getattr(uow, name).upsert({**ROWS[name](), "company_id": uow.tenant.company_id + 1})

    @pytest.mark.parametrize("name", ROWS)
    def test_a_row_in_a_batch_is_rejected_and_the_others_are_stored(self, uow: UnitOfWork, name: str) -> None:
        report = getattr(uow, name).bulk_upsert(
            [
                {**ROWS[name](), "company_id": uow.tenant.company_id + 1},
                {**ROWS[name](), "company_id": uow.tenant.company_id},
            ]
        )
        assert [(rejected.position, dict(rejected.errors)) for rejected in report.rejected] == [
            (0, {"company_id": "names another company"})
        ]
        assert report.total == 2

    def test_a_batch_checked_for_another_company_is_refused(
        self, desk: Frontdesk, uow: UnitOfWork, new_company: Callable[..., DataLayer]
    ) -> None:
        with desk.unit_of_work(new_company().company_id) as other:
            batch = other.clients.validate([ClientRow()])
        with pytest.raises(InvalidInputError):
            uow.clients.bulk_upsert(batch)

    def test_a_local_booking_of_another_company_is_refused(self, uow: UnitOfWork) -> None:
        values = {
            "company_id": uow.tenant.company_id + 1,
            "starts_at": NOON,
            "ends_at": NOON + timedelta(hours=1),
        }
        with pytest.raises(TypeError, match="multiple values for keyword argument 'company_id'"):
            uow.bookings.add(values, [])


class TestRecordsInASession:
    def test_a_new_record_of_another_company_is_refused(self, desk: Frontdesk, salon: DataLayer) -> None:
        with pytest.raises(InvalidInputError), desk.unit_of_work(salon.company_id) as uow:
            uow.session.add(Client(company_id=salon.company_id + 1, yclients_id=1, name="A"))

    def test_a_record_moved_to_another_company_is_refused(
        self, desk: Frontdesk, salon: DataLayer, new_company: Callable[..., DataLayer]
    ) -> None:
        salon.upsert_client(ClientRow(yclients_id=1)).unwrap()
        other = new_company()
        with pytest.raises(InvalidInputError):
            desk.transact(
                salon.company_id,
                lambda uow: setattr(uow.clients.find_one(yclients_id=1), "company_id", other.company_id),
            )
        assert other.get_clients().unwrap() == []

    def test_a_booking_is_not_moved_to_another_company_by_a_change(
        self, desk: Frontdesk, salon: DataLayer, new_company: Callable[..., DataLayer]
    ) -> None:
        booking = salon.upsert_booking(BookingRow(yclients_record_id=1, staff_id=None)).unwrap()
        other = new_company()
        with (
            pytest.raises(InvalidInputError, match="company_id: cannot be changed"),
            desk.unit_of_work(salon.company_id) as uow,
        ):
            uow.bookings.update_columns(booking.id, {"company_id": other.company_id})
        assert other.get_booking_by_id(1).unwrap() is None

    def test_a_changed_record_of_the_same_company_is_written(self, desk: Frontdesk, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=1)).unwrap()
        with desk.unit_of_work(salon.company_id) as uow:
            client = uow.clients.find_one(yclients_id=1)
            assert client is not None
            client.comment = "likes tea"
        stored = salon.get_client_by_id(1).unwrap()
        assert stored is not None
        assert stored.comment == "likes tea"


def test_both_companies_can_have_rows_with_the_same_ids(new_company: Callable[..., DataLayer]) -> None:
    first, second = new_company(), new_company()
    now = datetime.now(UTC)
    for salon, name in ((first, "Анна"), (second, "Ира")):
        salon.upsert_clients([ClientRow(yclients_id=1, name=name, phone=PHONE)]).unwrap()
        assert salon.create_booking(
            NewClientRow(name=name, phone=PHONE), NewBookingRow(starts_at=now)
        ).success
    assert [c.name for c in first.get_clients().unwrap()] == ["Анна"]
    assert [c.name for c in second.search_clients_by_name("а").unwrap()] == ["Ира"]
    assert len(first.get_client_appointments(PHONE).unwrap()) == 1
