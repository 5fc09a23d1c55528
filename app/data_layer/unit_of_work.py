"""One session, one transaction, one company; several repositories share it."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from app.data_layer.tenant_cache import Scopes
from app.database.connection import set_locally
from app.database.database import Connection, Database
from app.database.live_database import AnyDatabase
from app.database.query import PoolReader, SessionReader
from app.errors import (
    RAW_ERRORS,
    FencedError,
    FrontdeskError,
    InvalidInputError,
    RetryableConflictError,
    from_driver,
)
from app.observability import operation_context
from app.repositories import Repositories
from app.repositories.base import Scope
from app.schemas.types import MAX_ID

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5


class UnitOfWork(Repositories):
    """A `with` block that commits when it ends well and rolls back on any error.

    The connection is always released. What the database raises leaves the block as a FrontdeskError.
    Records stay readable after it.
    """

    def __init__(self, database: Database, scope: Scope, scopes: Scopes) -> None:
        self._database = database
        self._scopes = scopes
        self.session = Session(database.engine, expire_on_commit=False, autoflush=False)
        event.listen(self.session, "before_flush", self._refuse_other_companies)
        super().__init__(scope, SessionReader(self.session), self.session)

    def __enter__(self) -> Self:
        settings = self._database.settings
        if settings.postgres_pooler:  # no connection options through a pooler in transaction mode
            try:
                set_locally(self._driver, settings)
            except RAW_ERRORS as error:
                self._release()
                raise from_driver(error) from error
        self._begun = operation_context.begin(self.scope.company_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._refuse_failed()
                self.session.commit()
        except RAW_ERRORS as failure:
            raise self._known(failure) from failure
        finally:
            operation_context.end(self._begun)
            self._release()
            if self.companies.was_written:
                self._scopes.forget(self.scope.company_id)
        if isinstance(error, RAW_ERRORS):
            raise self._known(error) from error

    def _known(self, error: BaseException) -> FrontdeskError:
        failure = from_driver(error)
        # The next unit of work looks first where the live database is.
        self._database.is_fenced |= isinstance(failure, FencedError)
        return failure

    def _release(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        try:
            self.session.close()
        except RAW_ERRORS:
            # Lost in a COPY, which SQLAlchemy does not see: there is nothing left to roll back.
            self.session.invalidate()

    @property
    def _driver(self) -> Connection:
        connection: Any = self.session.connection().connection.driver_connection
        driver: Connection = connection
        return driver

    def _refuse_failed(self) -> None:
        # PostgreSQL answers a COMMIT after a failed statement by rolling back, and calls that no error.
        if (
            self.session.in_transaction()
            and self._driver.info.transaction_status is TransactionStatus.INERROR
        ):
            raise FrontdeskError(
                "A statement of this unit of work failed and its error was caught: nothing was kept."
            )

    def _refuse_other_companies(self, session: Session, context: UOWTransaction, instances: Any) -> None:
        for record in (*session.new, *session.dirty, *session.deleted):
            if record.company_id != self.scope.company_id:
                raise InvalidInputError("A unit of work writes rows of its own company only.")


class Units:
    """Opens units of work on the live database, runs them again where that helps, lends lone reads."""

    def __init__(self, database: AnyDatabase, reader: PoolReader | None = None) -> None:
        self.database = database
        self._reader = reader or PoolReader(database)
        self.scopes = Scopes(self._reader)

    def open(self, company_id: int) -> UnitOfWork:
        """One transaction of one company, as a `with` block."""
        scope = self._scope(company_id)
        return UnitOfWork(self.database.live(), scope, self.scopes)

    def reading(self, company_id: int) -> Repositories:
        """Repositories for lone reads: each method is one statement outside a transaction."""
        return Repositories(self._scope(company_id), self._reader)

    def transact(self, company_id: int, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a unit of work; run it again after a deadlock or a serialization failure, and on
        the database that became live where this one is moved.

        `work` may run several times, so it must not have effects outside the database.
        """
        scope = self._scope(company_id)

        def attempt(database: Database) -> T:
            with UnitOfWork(database, scope, self.scopes) as uow:
                return work(uow)

        again = Retrying(
            retry=retry_if_exception_type(RetryableConflictError),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=stop_after_attempt(ATTEMPTS),
            before_sleep=before_sleep_log(log, logging.INFO),
            reraise=True,
        )
        return self.database.follow(lambda database: again(attempt, database))

    def _scope(self, company_id: int) -> Scope:
        try:
            return self.scopes.get(checked_company_id(company_id))
        except RAW_ERRORS as error:
            raise from_driver(error) from error


def checked_company_id(company_id: int) -> int:
    """The id itself; raises InvalidInputError where it cannot be a YClients id."""
    if isinstance(company_id, bool) or not isinstance(company_id, int) or not 1 <= company_id <= MAX_ID:
        raise InvalidInputError(fields={"company_id": "must be a positive integer"})
    return company_id
