"""One session, one transaction, one company; committed when it ends well, and released whatever happens."""

from collections.abc import Callable
from threading import Barrier
from typing import Any

import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import InvalidInputError, RetryableConflictError, UnknownCompanyError
from app.models import Client
from app.repositories.base import Repository
from tests.factories import ClientRow, StaffRow
from tests.processes import WAIT_TIMEOUT_SECONDS
from tests.threads import at_once


def test_a_unit_of_work_commits_the_writes_of_all_repositories(desk: Frontdesk, salon: DataLayer) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.upsert(ClientRow(yclients_id=2))
        uow.staff.upsert(StaffRow(yclients_id=7))
    assert salon.get_client_by_id(2).unwrap() is not None
    assert salon.get_staff_by_id(7).unwrap() is not None


def test_a_read_creates_only_its_repository(desk: Frontdesk, salon: DataLayer) -> None:
    repositories = desk.uow_factory.read_only_repositories(salon.company_id)
    assert repositories.clients.find_one(yclients_id=2) is None
    created = [name for name, value in vars(repositories).items() if isinstance(value, Repository)]
    assert created == ["clients"]


def test_an_error_rolls_back_and_is_raised_unchanged(desk: Frontdesk, salon: DataLayer) -> None:
    def fail(uow: UnitOfWork) -> None:
        uow.clients.upsert(ClientRow(yclients_id=2))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        desk.transact(salon.company_id, fail)
    assert salon.get_client_by_id(2).unwrap() is None


def test_writes_are_visible_to_others_only_after_the_commit(desk: Frontdesk, salon: DataLayer) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.bulk_upsert([ClientRow(yclients_id=2)])
        assert uow.clients.count() == 1
        assert salon.get_clients().unwrap() == []
    assert len(salon.get_clients().unwrap()) == 1


def test_a_record_read_before_a_merge_gets_the_merged_values(uow: UnitOfWork) -> None:
    client = uow.clients.upsert(ClientRow(yclients_id=2, name="before"))
    uow.clients.bulk_upsert([ClientRow(yclients_id=2, name="after")])
    again = uow.clients.find_one(yclients_id=2)
    assert again is client
    assert client.name == "after"


def test_records_stay_readable_after_the_unit_of_work(desk: Frontdesk, salon: DataLayer) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        client = uow.clients.upsert(ClientRow(name="Анна"))
    assert (client.name, client.visit_count, client.deleted_at) == ("Анна", 0, None)
    assert client.created_at is not None


def test_the_first_write_of_an_unknown_company_fails(desk: Frontdesk, company_id: int) -> None:
    for rows in (1, 200):
        with pytest.raises(UnknownCompanyError), desk.unit_of_work(company_id) as uow:
            uow.clients.bulk_upsert([ClientRow() for _ in range(rows)])


@pytest.mark.parametrize("wrong", [0, -1, 2**63, "1", None, True, 1.0])
def test_a_company_id_is_required(desk: Frontdesk, wrong: Any) -> None:
    for call in (desk.company, desk.unit_of_work):
        with pytest.raises(InvalidInputError, match="company_id"):
            call(wrong)


def test_the_connection_is_released_after_any_error(settings: Settings, salon: DataLayer) -> None:
    one = settings.model_copy(update={"postgres_max_connections": 1, "postgres_connection_timeout": 2000})
    with Frontdesk(one) as desk:
        for _ in range(5):
            with pytest.raises(InvalidInputError), desk.unit_of_work(salon.company_id) as uow:
                uow.clients.upsert({})
        assert desk.transact(salon.company_id, lambda uow: uow.clients.count()) == 0
        assert desk.database.pool.get_stats()["pool_available"] == 1


class TestTransact:
    def test_the_result_of_the_function_is_returned(self, desk: Frontdesk, salon: DataLayer) -> None:
        assert desk.transact(salon.company_id, lambda uow: uow.clients.count()) == 0

    def test_a_deadlock_is_retried(self, desk: Frontdesk, salon: DataLayer) -> None:
        salon.upsert_clients([ClientRow(yclients_id=n, visit_count=0) for n in (1, 2)]).unwrap()
        meeting, runs = Barrier(2, timeout=WAIT_TIMEOUT_SECONDS), []

        def visit_both(uow: UnitOfWork, first: int, second: int) -> None:
            runs.append(first)
            for yclients_id in (first, second):
                client = uow.clients.find_one(yclients_id=yclients_id)
                assert client is not None
                client.visit_count = Client.visit_count + 1  # by the server: what was read may be old
                uow.session.flush()
                if yclients_id == first and len(runs) <= 2:
                    meeting.wait()

        answers = at_once(
            lambda pair=pair: desk.transact(salon.company_id, lambda uow: visit_both(uow, *pair))
            for pair in ((1, 2), (2, 1))
        )
        assert answers == [None, None]
        assert len(runs) == 3
        assert [client.visit_count for client in salon.get_clients().unwrap()] == [2, 2]

    def test_the_error_is_raised_after_five_attempts(self, desk: Frontdesk, salon: DataLayer) -> None:
        runs = []

        def never(uow: UnitOfWork) -> None:
            runs.append(uow)
            raise RetryableConflictError

        with pytest.raises(RetryableConflictError):
            desk.transact(salon.company_id, never)
        assert len(runs) == 5

    def test_other_errors_are_not_retried(self, desk: Frontdesk, salon: DataLayer) -> None:
        runs = []

        def fail(uow: UnitOfWork) -> None:
            runs.append(uow)
            uow.clients.upsert({})

        with pytest.raises(InvalidInputError):
            desk.transact(salon.company_id, fail)
        assert len(runs) == 1


def test_a_changed_country_or_time_zone_is_used_by_the_next_call(
    desk: Frontdesk, new_company: Callable[..., DataLayer]
) -> None:
    salon = new_company(country="RU")
    salon.upsert_client(ClientRow(yclients_id=1, phone="9686484488")).unwrap()
    salon.upsert_company({"title": "Salon", "country": "US"}).unwrap()
    assert salon.upsert_client(ClientRow(phone="(212) 736-5000")).unwrap().phone == "+12127365000"
    with desk.unit_of_work(salon.company_id) as uow:
        uow.companies.upsert({"title": "Salon", "country": "DE"})
    assert salon.upsert_client(ClientRow(phone="0171 2345678")).unwrap().phone == "+491712345678"
