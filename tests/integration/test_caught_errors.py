"""An error that the work catches for itself must not turn the commit into a silent rollback."""

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


def test_a_unit_of_work_with_a_failed_statement_says_that_nothing_was_kept(
    desk: Frontdesk, salon: DataLayer
) -> None:
    with (
        pytest.raises(FrontdeskError, match="nothing was stored"),
        desk.unit_of_work(salon.company_id) as uow,
    ):
        write_then_fail(uow)
    assert salon.get_client_by_id(1).unwrap() is None


def test_a_transaction_handed_over_as_a_function_says_so_too(desk: Frontdesk, salon: DataLayer) -> None:
    with pytest.raises(FrontdeskError, match="nothing was stored"):
        desk.transact(salon.company_id, write_then_fail)


def test_a_savepoint_keeps_a_caught_error_to_itself(desk: Frontdesk, salon: DataLayer) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.upsert({"yclients_id": 1, "name": "Anna"})
        with pytest.raises(DataError, match="division by zero"), uow.session.begin_nested():
            uow.session.connection().exec_driver_sql("SELECT 1/0")
    assert salon.get_client_by_id(1).unwrap() is not None


def test_a_unit_of_work_that_did_nothing_ends_well(desk: Frontdesk, company_id: int) -> None:
    with desk.unit_of_work(company_id):
        pass


def test_an_error_that_leaves_the_block_is_the_one_that_is_seen(desk: Frontdesk, company_id: int) -> None:
    with pytest.raises(UnknownCompanyError), desk.unit_of_work(company_id) as uow:
        uow.clients.upsert({"yclients_id": 1, "name": "Anna"})
