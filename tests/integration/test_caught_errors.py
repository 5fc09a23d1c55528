"""A unit of work whose code has caught a database error must not roll back without an error."""

import pytest
from sqlalchemy.exc import DataError

from app import Frontdesk
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import FrontdeskError, UnknownCompanyError


def write_then_fail(uow: UnitOfWork) -> None:
    uow.clients.upsert({"yclients_id": 1, "name": "Anna"})
    with pytest.raises(DataError, match="division by zero"):
        uow.session.connection().exec_driver_sql("SELECT 1/0")


def test_a_unit_of_work_with_a_failed_statement_reports_that_nothing_was_stored(
    desk: Frontdesk, salon: DataLayer
) -> None:
    with (
        pytest.raises(FrontdeskError, match="nothing was stored"),
        desk.unit_of_work(salon.company_id) as uow,
    ):
        write_then_fail(uow)
    assert salon.get_client_by_id(1).unwrap() is None


def test_transact_with_a_failed_statement_reports_that_nothing_was_stored(
    desk: Frontdesk, salon: DataLayer
) -> None:
    with pytest.raises(FrontdeskError, match="nothing was stored"):
        desk.transact(salon.company_id, write_then_fail)


def test_an_error_inside_a_savepoint_does_not_affect_the_unit_of_work(
    desk: Frontdesk, salon: DataLayer
) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.upsert({"yclients_id": 1, "name": "Anna"})
        with pytest.raises(DataError, match="division by zero"), uow.session.begin_nested():
            uow.session.connection().exec_driver_sql("SELECT 1/0")
    assert salon.get_client_by_id(1).unwrap() is not None


def test_an_empty_unit_of_work_succeeds(desk: Frontdesk, company_id: int) -> None:
    with desk.unit_of_work(company_id):
        pass


def test_an_error_that_is_not_caught_is_raised_unchanged(desk: Frontdesk, company_id: int) -> None:
    with pytest.raises(UnknownCompanyError), desk.unit_of_work(company_id) as uow:
        uow.clients.upsert({"yclients_id": 1, "name": "Anna"})
