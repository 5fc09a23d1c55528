"""Unit of work: one session, one transaction and one company, shared by several repositories."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from app.data_layer.tenant_cache import TenantCache
from app.database.connection import Connection, set_transaction_settings
from app.database.database import Database
from app.database.live_database import AnyDatabase
from app.database.query import PoolReader, SessionReader
from app.errors import (
    DRIVER_ERRORS,
    FencedError,
    FrontdeskError,
    InvalidInputError,
    RetryableConflictError,
    UnknownCompanyError,
    to_frontdesk_error,
)
from app.observability import operation_context
from app.repositories import Repositories
from app.repositories.base import Tenant
from app.schemas.types import MAX_ID

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_TRANSACTION_ATTEMPTS = 5


class UnitOfWork(Repositories):
    """A context manager that commits at the end of the block and rolls back after an exception.

    The connection is always released. Database errors leave the block as FrontdeskError. Records stay
    readable after the block.
    """

    def __init__(self, database: Database, tenant: Tenant, tenant_cache: TenantCache) -> None:
        self._database = database
        self._tenant_cache = tenant_cache
        self.session = Session(database.engine, expire_on_commit=False, autoflush=False)
        event.listen(self.session, "before_flush", self._refuse_other_companies)
        super().__init__(tenant, SessionReader(self.session), self.session)

    def __enter__(self) -> Self:
        settings = self._database.settings
        if settings.postgres_pooler:  # no connection options through a pooler in transaction mode
            try:
                set_transaction_settings(self._driver, settings)
            except DRIVER_ERRORS as error:
                self._release()
                raise to_frontdesk_error(error) from error
        self._context = operation_context.begin(self.tenant.company_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._refuse_failed()
                self.session.commit()
        except DRIVER_ERRORS as failure:
            raise self._convert_error(failure) from failure
        finally:
            operation_context.end(self._context)
            self._release()
            if self.companies.was_written:
                self._tenant_cache.invalidate(self.tenant.company_id)
        if isinstance(error, DRIVER_ERRORS):
            raise self._convert_error(error) from error

    def _convert_error(self, error: BaseException) -> FrontdeskError:
        failure = to_frontdesk_error(error)
        # The next unit of work first determines the live database again.
        self._database.is_fenced |= isinstance(failure, FencedError)
        if isinstance(failure, UnknownCompanyError):  # removed since it was cached
            self._tenant_cache.invalidate(self.tenant.company_id)
        return failure

    def _release(self) -> None:
        """Roll back uncommitted changes and return the connection to the pool."""
        try:
            self.session.close()
        except DRIVER_ERRORS:
            # The connection was lost during a COPY, which SQLAlchemy does not notice.
            self.session.invalidate()

    @property
    def _driver(self) -> Connection:
        connection: Any = self.session.connection().connection.driver_connection
        driver: Connection = connection
        return driver

    def _refuse_failed(self) -> None:
        # After a failed statement, PostgreSQL executes COMMIT as a rollback without raising an error.
        if (
            self.session.in_transaction()
            and self._driver.info.transaction_status is TransactionStatus.INERROR
        ):
            raise FrontdeskError(
                "A statement of this unit of work failed and its error was caught: nothing was stored."
            )

    def _refuse_other_companies(self, session: Session, context: UOWTransaction, instances: Any) -> None:
        for record in (*session.new, *session.dirty, *session.deleted):
            if record.company_id != self.tenant.company_id:
                raise InvalidInputError("A unit of work can write rows of its own company only.")


class UnitOfWorkFactory:
    """Opens units of work on the live database, retries them, and provides repositories for single reads."""

    def __init__(self, database: AnyDatabase, reader: PoolReader | None = None) -> None:
        self.database = database
        self._reader = reader or PoolReader(database)
        self.tenant_cache = TenantCache(self._reader)

    def open(self, company_id: int) -> UnitOfWork:
        """Return a unit of work for a `with` block. It is not retried."""
        return UnitOfWork(self.database.live(), self._tenant(company_id), self.tenant_cache)

    def read_only_repositories(self, company_id: int) -> Repositories:
        """Return repositories for single reads: each method is one statement outside a transaction."""
        return Repositories(self._tenant(company_id), self._reader)

    def transact(self, company_id: int, function: Callable[[UnitOfWork], T]) -> T:
        """Run `function` in a unit of work and return its result.

        It is retried after a deadlock or serialization failure, and on the other database if a cutover has
        made that one live. So `function` must not have effects outside the database. Raises FrontdeskError.
        """
        tenant = self._tenant(company_id)

        def attempt(database: Database) -> T:
            with UnitOfWork(database, tenant, self.tenant_cache) as uow:
                return function(uow)

        retry = Retrying(
            retry=retry_if_exception_type(RetryableConflictError),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=stop_after_attempt(MAX_TRANSACTION_ATTEMPTS),
            before_sleep=before_sleep_log(log, logging.INFO),
            reraise=True,
        )
        return self.database.run_on_live(lambda database: retry(attempt, database))

    def _tenant(self, company_id: int) -> Tenant:
        try:
            return self.tenant_cache.get(validate_company_id(company_id))
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error


def validate_company_id(company_id: int) -> int:
    """Return the id. Raises InvalidInputError if it is not a valid YClients id."""
    if isinstance(company_id, bool) or not isinstance(company_id, int) or not 1 <= company_id <= MAX_ID:
        raise InvalidInputError(fields={"company_id": "must be a positive integer"})
    return company_id
