"""The composition root: settings in, everything else out."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from app.config import Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork, Units, checked_company_id
from app.database import connection_budget
from app.database.live_database import MovingDatabase, database_of
from app.observability import sentry
from app.observability.setup import start
from app.transfer.verification.shadow_reads import ComparedReader
from app.whatsapp.encryption import Vault
from app.whatsapp.retention import Retention
from app.whatsapp.session_store import SessionStore

T = TypeVar("T")


class Salon(DataLayer):
    """All operations of one company: the data layer's own, and its WhatsApp session's."""

    def __init__(self, units: Units, company_id: int, whatsapp: SessionStore) -> None:
        super().__init__(units, company_id)
        self.whatsapp = whatsapp


class Frontdesk:
    """One process's service. Safe to share between threads; leaving its `with` block releases everything."""

    def __init__(self, settings: Settings) -> None:
        sentry.initialise(settings)
        self.settings = settings
        self.database = database_of(settings)
        self._compared = (
            ComparedReader(self.database, settings)
            if settings.transfer_compare_reads and isinstance(self.database, MovingDatabase)
            else None
        )
        self.units = Units(self.database, self._compared)
        self._vault = Vault.of(settings)
        self._retention = Retention.of(settings)

    @classmethod
    def from_env(cls) -> Self:
        """Configured by the environment, with Sentry and logging set up before anything else.

        Says in the log how the connections of all services fit the server. Raises ConfigurationError,
        which names every problem.
        """
        settings = Settings.load()
        start(settings)
        desk = cls(settings)
        connection_budget.tell(desk.database)
        return desk

    def company(self, company_id: int) -> Salon:
        """The data layer bound to one company (its YClients id, known here or not)."""
        store = SessionStore(self.units, checked_company_id(company_id), self._vault, self._retention)
        return Salon(self.units, company_id, store)

    def unit_of_work(self, company_id: int) -> UnitOfWork:
        """One transaction of one company, as a `with` block."""
        return self.units.open(company_id)

    def transact(self, company_id: int, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a unit of work; run it again after a deadlock or a serialization failure, and on
        the database that became live where this one is moved.

        `work` may run several times, so it must not have effects outside the database.
        """
        return self.units.transact(company_id, work)

    def close(self) -> None:
        """Give every connection back."""
        if self._compared is not None:
            self._compared.comparison.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
