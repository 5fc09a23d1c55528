"""The composition root: settings in, everything else out."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from app.config import Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork, UnitOfWorkFactory, validate_company_id
from app.database import connection_budget
from app.database.live_database import LiveDatabase, configured_database
from app.observability import sentry
from app.observability.setup import start_observability
from app.transfer.verification.shadow_reads import SamplingReader
from app.whatsapp.encryption import Cipher
from app.whatsapp.retention import Retention
from app.whatsapp.session_store import SessionStore

T = TypeVar("T")


class Salon(DataLayer):
    """All operations of one company: the data layer's own, and its WhatsApp session's."""

    def __init__(self, uow_factory: UnitOfWorkFactory, company_id: int, whatsapp: SessionStore) -> None:
        super().__init__(uow_factory, company_id)
        self.whatsapp = whatsapp


class Frontdesk:
    """One process's service. Safe to share between threads; leaving its `with` block releases everything."""

    def __init__(self, settings: Settings) -> None:
        sentry.initialise(settings)
        self.settings = settings
        self.database = configured_database(settings)
        self._shadow_reader = (
            SamplingReader(self.database, settings)
            if settings.transfer_compare_reads and isinstance(self.database, LiveDatabase)
            else None
        )
        self.uow_factory = UnitOfWorkFactory(self.database, self._shadow_reader)
        self._cipher = Cipher.from_settings(settings)
        self._retention = Retention.from_settings(settings)

    @classmethod
    def from_env(cls) -> Self:
        """Configured by the environment, with Sentry and logging set up before anything else.

        Says in the log how the connections of all services fit the server. Raises ConfigurationError,
        which names every problem.
        """
        settings = Settings.load()
        start_observability(settings)
        desk = cls(settings)
        connection_budget.log_budget(desk.database)
        return desk

    def company(self, company_id: int) -> Salon:
        """The data layer bound to one company (its YClients id, known here or not)."""
        store = SessionStore(self.uow_factory, validate_company_id(company_id), self._cipher, self._retention)
        return Salon(self.uow_factory, company_id, store)

    def unit_of_work(self, company_id: int) -> UnitOfWork:
        """One transaction of one company, as a `with` block."""
        return self.uow_factory.open(company_id)

    def transact(self, company_id: int, function: Callable[[UnitOfWork], T]) -> T:
        """Run `function` in a unit of work; run it again after a deadlock or a serialization failure, and on
        the database that became live where this one is moved.

        `function` may run several times, so it must not have effects outside the database.
        """
        return self.uow_factory.transact(company_id, function)

    def close(self) -> None:
        """Give every connection back."""
        if self._shadow_reader is not None:
            self._shadow_reader.comparer.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
