"""One company's session: what Baileys calls an authentication state, and who holds it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from app.data_layer.error_boundary import operation
from app.data_layer.operations import ArgumentValidator, Operations
from app.data_layer.unit_of_work import UnitOfWork, UnitOfWorkFactory
from app.errors import InvalidInputError, UnknownCompanyError
from app.models import WhatsAppAuth, WhatsAppKey, WhatsAppState
from app.repositories.whatsapp import StoredKey
from app.repositories.whatsapp_leases import WhatsAppLeases
from app.schemas.types import KeyText, NonNegativeInteger
from app.whatsapp import baileys_json
from app.whatsapp.encryption import Cipher
from app.whatsapp.errors import SessionHeldError, StaleCredentialsError
from app.whatsapp.retention import Retention

T = TypeVar("T")

LEASE_DURATION = timedelta(seconds=60)  # every write of the worker renews it
MAX_NAME_CHARS = 255

validate_version = ArgumentValidator(NonNegativeInteger | None)
validate_owner = ArgumentValidator(KeyText)


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
class KeyTypeStatistics:
    """Keys of one type. Only types that expire by the present retention have expired ones."""

    total: int
    expired: int


@dataclass(frozen=True)
class SessionStatistics:
    """How much there is of a session."""

    has_credentials: bool
    keys: Mapping[str, KeyTypeStatistics]
    last_write: datetime | None

    @property
    def total(self) -> int:
        return sum(each.total for each in self.keys.values())

    @property
    def expired(self) -> int:
        return sum(each.expired for each in self.keys.values())


@dataclass(frozen=True)
class DeletedCounts:
    """How many rows are gone."""

    credentials: int
    keys: int


class SessionStore(Operations):
    """The operations of a worker. Values are JSON, opaque, with their buffers in base64.

    What cannot be read is an error and never a key that is missing: a worker that takes an outage for
    missing credentials starts a new session. So is a company that is not known. `owner` names the worker
    that writes; without it the write takes no part in the lease.
    """

    def __init__(
        self, uow_factory: UnitOfWorkFactory, company_id: int, cipher: Cipher, retention: Retention
    ) -> None:
        super().__init__(uow_factory, company_id)
        self._cipher = cipher
        self._retention = retention

    @operation(WhatsAppAuth, "whatsapp")
    def get_creds(self) -> Credentials | None:
        """The credentials, or None where the salon was never paired, or logged out."""
        row = self._read_only_repositories.whatsapp_auth.find_one()
        if row is None:
            return self._empty_result(None)
        return Credentials(baileys_json.decode(self._cipher.decrypt(row.creds)), row.version)

    @operation(WhatsAppAuth, "whatsapp")
    def set_creds(self, creds: Mapping[str, Any], version: int | None, owner: str | None = None) -> int:
        """Write credentials made from `version` (None: the first ones); return the new version.

        Fails with a StaleCredentialsError where the stored ones are not of that version.
        """
        if not isinstance(creds, Mapping):
            raise InvalidInputError(fields={"creds": "is not an object with fields"})
        stored = self._cipher.encrypt(baileys_json.encode(dict(creds)))
        version = validate_version("version", version)

        def work(uow: UnitOfWork) -> int:
            auth = uow.whatsapp_auth
            if not (auth.insert_first(stored) if version is None else auth.replace_version(stored, version)):
                self._require_company(uow)
                raise StaleCredentialsError
            return (version or 0) + 1

        return self._write_with_lease(work, owner)

    @operation(WhatsAppKey, "whatsapp")
    def get_keys(self, key_type: str, ids: Iterable[str]) -> dict[str, Any]:
        """Values by id, in one statement; ids that are not there are absent."""
        if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
            raise InvalidInputError(fields={"ids": "is not a list"})
        wanted = [_validate_name("ids", each) for each in ids]
        found = self._read_only_repositories.whatsapp_keys.values(_validate_name("type", key_type), wanted)
        unlock = self._cipher.decrypt
        return {
            key: baileys_json.decode(unlock(value)) for key, value in found.items()
        } or self._empty_result({})

    @operation(WhatsAppKey, "whatsapp")
    def set_keys(self, data: Mapping[str, Mapping[str, Any]], owner: str | None = None) -> None:
        """Write keys of all types in one transaction, all or nothing: `{type: {id: value}}`.

        None deletes, and deleting what is not there is no error.
        """
        rows, gone = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if any(key_type == "session" for key_type, _ in gone):
                WhatsAppLeases(uow.session, self.company_id).record_max_sessions()
            uow.whatsapp_keys.write(rows, gone)
            if not rows:
                self._require_company(uow)

        self._write_with_lease(work, owner)

    @operation(WhatsAppKey, "whatsapp")
    def statistics(self) -> SessionStatistics:
        """Counts by type, and when a key was written last."""
        counted = self._read_only_repositories.whatsapp_keys.count_by_type()
        return SessionStatistics(
            has_credentials=self._read_only_repositories.whatsapp_auth.find_one() is not None,
            keys={
                key_type: KeyTypeStatistics(total, expired if self._retention.has_expiry(key_type) else 0)
                for key_type, total, expired, _ in counted
            },
            last_write=max((last for *_, last in counted), default=None),
        )

    @operation(WhatsAppAuth, "whatsapp")
    def delete_session(self) -> DeletedCounts:
        """Log out: delete credentials, keys and what is remembered of them."""

        def work(uow: UnitOfWork) -> DeletedCounts:
            self._require_company(uow)
            here = {"company_id": self.company_id}
            keys = uow.whatsapp_keys.delete(**here)
            WhatsAppLeases(uow.session, self.company_id).delete()
            return DeletedCounts(uow.whatsapp_auth.delete(**here), keys)

        return self._transact(work)

    @operation(WhatsAppState, "whatsapp")
    def take_lease(self, owner: str) -> Lease:
        """Take the session for the worker `owner`, as WhatsApp does: the newest connection wins.

        The worker that held it gets a SessionHeldError for its next write, and health tells of it.
        """
        owner = validate_owner("owner", owner)
        before = self._transact(
            lambda uow: WhatsAppLeases(uow.session, self.company_id).take_lease(owner, LEASE_DURATION)
        )
        return Lease(owner, int(LEASE_DURATION.total_seconds()), before)

    @operation(WhatsAppState, "whatsapp")
    def release_lease(self, owner: str) -> None:
        """Let the session go, where it is `owner` who holds it."""
        owner = validate_owner("owner", owner)
        self._transact(lambda uow: WhatsAppLeases(uow.session, self.company_id).release_lease(owner))

    @operation(WhatsAppAuth, "whatsapp")
    def import_session(
        self, creds: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]], dry_run: bool = False
    ) -> None:
        """Write a whole session from elsewhere; a company that has one already keeps it (a conflict)."""
        stored = self._cipher.encrypt(baileys_json.encode(dict(creds)))
        rows, _ = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if not uow.whatsapp_auth.insert_first(stored):
                raise StaleCredentialsError("This company has a session already: forget it first.")
            uow.whatsapp_keys.write(rows, ())
            if dry_run:
                uow.session.rollback()

        self._transact(work)

    def _rows(self, data: Any) -> tuple[list[StoredKey], list[tuple[str, str]]]:
        """What is to be written, in the order of its keys, and what is to be deleted."""
        if not isinstance(data, Mapping) or not all(isinstance(each, Mapping) for each in data.values()):
            raise InvalidInputError(fields={"data": "is not like {type: {id: value}}"})
        now = datetime.now(UTC)
        rows: list[StoredKey] = []
        gone: list[tuple[str, str]] = []
        for key_type in sorted(_validate_name("type", each) for each in data):
            expires_at = self._retention.expires_at(key_type, now)
            values = data[key_type]
            for key_id in sorted(_validate_name("id", each) for each in values):
                if values[key_id] is None:
                    gone.append((key_type, key_id))
                else:
                    value = self._cipher.encrypt(baileys_json.encode(values[key_id]))
                    rows.append((key_type, key_id, value, expires_at))
        return rows, gone

    def _write_with_lease(self, function: Callable[[UnitOfWork], T], owner: str | None) -> T:
        """Run a write for the worker that holds the session."""
        if owner is None:
            return self._transact(function)
        owner = validate_owner("owner", owner)

        def held(uow: UnitOfWork) -> T:
            if not WhatsAppLeases(uow.session, self.company_id).renew_lease(owner, LEASE_DURATION):
                raise SessionHeldError
            return function(uow)

        try:
            return self._transact(held)
        except SessionHeldError:
            self._transact(lambda uow: WhatsAppLeases(uow.session, self.company_id).record_conflict(owner))
            raise

    def _empty_result(self, answer: T) -> T:
        """`answer` for a company that has nothing stored; UnknownCompanyError for one that cannot have."""
        if self._read_only_repositories.companies.get() is None:
            raise UnknownCompanyError
        return answer

    @staticmethod
    def _require_company(uow: UnitOfWork) -> None:
        if uow.companies.get() is None:
            raise UnknownCompanyError


def _validate_name(field_name: str, name: Any) -> str:
    """A type or an id. The error does not show it: ids hold phones."""
    if isinstance(name, str) and 1 <= len(name) <= MAX_NAME_CHARS and "\0" not in name:
        try:
            name.encode()
        except UnicodeEncodeError:
            pass
        else:
            return name
    raise InvalidInputError(
        fields={field_name: f"must be text of 1 to {MAX_NAME_CHARS} characters without NUL"}
    )
