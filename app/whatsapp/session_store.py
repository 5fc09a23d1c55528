"""One company's session: what Baileys calls an authentication state, and who holds it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from app.data_layer.error_boundary import operation
from app.data_layer.operations import Argument, Operations
from app.data_layer.unit_of_work import UnitOfWork, Units
from app.errors import InvalidInputError, UnknownCompanyError
from app.models import WhatsAppAuth, WhatsAppKey, WhatsAppState
from app.repositories.whatsapp import Stored
from app.repositories.whatsapp_leases import WhatsAppStates
from app.schemas.types import Key, Position
from app.whatsapp import baileys_json
from app.whatsapp.encryption import Vault
from app.whatsapp.errors import SessionHeldError, StaleCredentialsError
from app.whatsapp.retention import Retention

T = TypeVar("T")

LEASE = timedelta(seconds=60)  # every write of the worker renews it
LONGEST_NAME = 255

a_version = Argument(Position | None)
an_owner = Argument(Key)


@dataclass(frozen=True)
class Credentials:
    """What identifies a salon's device. `version` is what the next change has to name."""

    creds: dict[str, Any] = field(repr=False)
    version: int


@dataclass(frozen=True)
class Lease:
    """That `owner` holds the session. `taken_from` held it until now, and may not know yet."""

    owner: str
    seconds: int
    taken_from: str | None


@dataclass(frozen=True)
class TypeStatistics:
    """Keys of one type. Only types that expire by the present retention have expired ones."""

    total: int
    expired: int


@dataclass(frozen=True)
class Statistics:
    """How much there is of a session."""

    has_credentials: bool
    keys: Mapping[str, TypeStatistics]
    last_write: datetime | None

    @property
    def total(self) -> int:
        return sum(each.total for each in self.keys.values())

    @property
    def expired(self) -> int:
        return sum(each.expired for each in self.keys.values())


@dataclass(frozen=True)
class Forgotten:
    """How many rows are gone."""

    credentials: int
    keys: int


class SessionStore(Operations):
    """The operations of a worker. Values are JSON, opaque, with their buffers in base64.

    What cannot be read is an error and never a key that is missing: a worker that takes an outage for
    missing credentials starts a new session. So is a company that is not known. `owner` names the worker
    that writes; without it the write takes no part in the lease.
    """

    def __init__(self, units: Units, company_id: int, vault: Vault, retention: Retention) -> None:
        super().__init__(units, company_id)
        self._vault = vault
        self._retention = retention

    @operation(WhatsAppAuth, "whatsapp")
    def get_creds(self) -> Credentials | None:
        """The credentials, or None where the salon was never paired, or logged out."""
        row = self._reading.whatsapp_auth.find_one()
        if row is None:
            return self._nothing(None)
        return Credentials(baileys_json.decode(self._vault.unlock(row.creds)), row.version)

    @operation(WhatsAppAuth, "whatsapp")
    def set_creds(self, creds: Mapping[str, Any], version: int | None, owner: str | None = None) -> int:
        """Write credentials made from `version` (None: the first ones); return the new version.

        Fails with a StaleCredentialsError where the stored ones are not of that version.
        """
        if not isinstance(creds, Mapping):
            raise InvalidInputError(fields={"creds": "is not an object with fields"})
        stored = self._vault.lock(baileys_json.encode(dict(creds)))
        version = a_version("version", version)

        def work(uow: UnitOfWork) -> int:
            auth = uow.whatsapp_auth
            if not (auth.add(stored) if version is None else auth.replace(stored, version)):
                self._known(uow)
                raise StaleCredentialsError
            return (version or 0) + 1

        return self._write(work, owner)

    @operation(WhatsAppKey, "whatsapp")
    def get_keys(self, key_type: str, ids: Iterable[str]) -> dict[str, Any]:
        """Values by id, in one statement; ids that are not there are absent."""
        if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
            raise InvalidInputError(fields={"ids": "is not a list"})
        wanted = [_name("ids", each) for each in ids]
        found = self._reading.whatsapp_keys.values(_name("type", key_type), wanted)
        unlock = self._vault.unlock
        return {key: baileys_json.decode(unlock(value)) for key, value in found.items()} or self._nothing({})

    @operation(WhatsAppKey, "whatsapp")
    def set_keys(self, data: Mapping[str, Mapping[str, Any]], owner: str | None = None) -> None:
        """Write keys of all types in one transaction, all or nothing: `{type: {id: value}}`.

        None deletes, and deleting what is not there is no error.
        """
        rows, gone = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if any(key_type == "session" for key_type, _ in gone):
                WhatsAppStates(uow.session, self.company_id).remember_sessions()
            uow.whatsapp_keys.write(rows, gone)
            if not rows:
                self._known(uow)

        self._write(work, owner)

    @operation(WhatsAppKey, "whatsapp")
    def statistics(self) -> Statistics:
        """Counts by type, and when a key was written last."""
        counted = self._reading.whatsapp_keys.count_by_type()
        return Statistics(
            has_credentials=self._reading.whatsapp_auth.find_one() is not None,
            keys={
                key_type: TypeStatistics(total, expired if self._retention.expires(key_type) else 0)
                for key_type, total, expired, _ in counted
            },
            last_write=max((last for *_, last in counted), default=None),
        )

    @operation(WhatsAppAuth, "whatsapp")
    def forget(self) -> Forgotten:
        """Log out: delete credentials, keys and what is remembered of them."""

        def work(uow: UnitOfWork) -> Forgotten:
            self._known(uow)
            here = {"company_id": self.company_id}
            keys = uow.whatsapp_keys.delete(**here)
            WhatsAppStates(uow.session, self.company_id).delete()
            return Forgotten(uow.whatsapp_auth.delete(**here), keys)

        return self._transact(work)

    @operation(WhatsAppState, "whatsapp")
    def hold(self, owner: str) -> Lease:
        """Take the session for the worker `owner`, as WhatsApp does: the newest connection wins.

        The worker that held it gets a SessionHeldError for its next write, and health tells of it.
        """
        owner = an_owner("owner", owner)
        before = self._transact(lambda uow: WhatsAppStates(uow.session, self.company_id).take(owner, LEASE))
        return Lease(owner, int(LEASE.total_seconds()), before)

    @operation(WhatsAppState, "whatsapp")
    def release(self, owner: str) -> None:
        """Let the session go, where it is `owner` who holds it."""
        owner = an_owner("owner", owner)
        self._transact(lambda uow: WhatsAppStates(uow.session, self.company_id).release(owner))

    @operation(WhatsAppAuth, "whatsapp")
    def bring_in(
        self, creds: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]], dry_run: bool = False
    ) -> None:
        """Write a whole session from elsewhere; a company that has one already keeps it (a conflict)."""
        stored = self._vault.lock(baileys_json.encode(dict(creds)))
        rows, _ = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if not uow.whatsapp_auth.add(stored):
                raise StaleCredentialsError("This company has a session already: forget it first.")
            uow.whatsapp_keys.write(rows, ())
            if dry_run:
                uow.session.rollback()

        self._transact(work)

    def _rows(self, data: Any) -> tuple[list[Stored], list[tuple[str, str]]]:
        """What is to be written, in the order of its keys, and what is to be deleted."""
        if not isinstance(data, Mapping) or not all(isinstance(each, Mapping) for each in data.values()):
            raise InvalidInputError(fields={"data": "is not like {type: {id: value}}"})
        now = datetime.now(UTC)
        rows: list[Stored] = []
        gone: list[tuple[str, str]] = []
        for key_type in sorted(_name("type", each) for each in data):
            expires_at = self._retention.expires_at(key_type, now)
            values = data[key_type]
            for key_id in sorted(_name("id", each) for each in values):
                if values[key_id] is None:
                    gone.append((key_type, key_id))
                else:
                    value = self._vault.lock(baileys_json.encode(values[key_id]))
                    rows.append((key_type, key_id, value, expires_at))
        return rows, gone

    def _write(self, work: Callable[[UnitOfWork], T], owner: str | None) -> T:
        """Run a write for the worker that holds the session."""
        if owner is None:
            return self._transact(work)
        owner = an_owner("owner", owner)

        def held(uow: UnitOfWork) -> T:
            if not WhatsAppStates(uow.session, self.company_id).hold(owner, LEASE):
                raise SessionHeldError
            return work(uow)

        try:
            return self._transact(held)
        except SessionHeldError:
            self._transact(lambda uow: WhatsAppStates(uow.session, self.company_id).contest(owner))
            raise

    def _nothing(self, answer: T) -> T:
        """`answer` for a company that has nothing stored; UnknownCompanyError for one that cannot have."""
        if self._reading.companies.get() is None:
            raise UnknownCompanyError
        return answer

    @staticmethod
    def _known(uow: UnitOfWork) -> None:
        if uow.companies.get() is None:
            raise UnknownCompanyError


def _name(what: str, name: Any) -> str:
    """A type or an id. The error does not show it: ids hold phones."""
    if isinstance(name, str) and 1 <= len(name) <= LONGEST_NAME and "\0" not in name:
        try:
            name.encode()
        except UnicodeEncodeError:
            pass
        else:
            return name
    raise InvalidInputError(fields={what: f"must be text of 1 to {LONGEST_NAME} characters without NUL"})
