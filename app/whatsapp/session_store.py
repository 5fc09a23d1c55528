"""WhatsApp session of one company (the authentication state of Baileys) and the lease on it."""

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
    """Credentials of a salon's device. The next change must name `version`."""

    creds: dict[str, Any] = field(repr=False)
    version: int


@dataclass(frozen=True)
class Lease:
    """Lease of the worker `owner` on the session. `taken_from` is the worker that held it before, if any."""

    owner: str
    seconds: int
    taken_from: str | None


@dataclass(frozen=True)
class KeyTypeStatistics:
    """Numbers of keys of one type. `expired` is 0 for types that do not expire by the current retention."""

    total: int
    expired: int


@dataclass(frozen=True)
class SessionStatistics:
    """Contents of a session: keys by type, and the time of the last write."""

    has_credentials: bool
    keys: Mapping[str, KeyTypeStatistics]
    last_write: datetime | None

    @property
    def total(self) -> int:
        return sum(statistics.total for statistics in self.keys.values())

    @property
    def expired(self) -> int:
        return sum(statistics.expired for statistics in self.keys.values())


@dataclass(frozen=True)
class DeletedCounts:
    """Numbers of deleted rows."""

    credentials: int
    keys: int


class SessionStore(Operations):
    """Operations for a WhatsApp worker. Values are opaque JSON with buffers in base64.

    An unreadable value, an outage and an unknown company are errors, never missing keys, because a worker
    without credentials starts a new session. `owner` names the worker that writes; a write without owner
    ignores the lease.
    """

    def __init__(
        self, uow_factory: UnitOfWorkFactory, company_id: int, cipher: Cipher, retention: Retention
    ) -> None:
        super().__init__(uow_factory, company_id)
        self._cipher = cipher
        self._retention = retention

    @operation(WhatsAppAuth, "whatsapp")
    def get_creds(self) -> Credentials | None:
        """Return the credentials, or None if the salon is not paired."""
        row = self._read_only_repositories.whatsapp_auth.find_one()
        if row is None:
            return self._empty_result(None)
        return Credentials(baileys_json.decode(self._cipher.decrypt(row.creds)), row.version)

    @operation(WhatsAppAuth, "whatsapp")
    def set_creds(self, creds: Mapping[str, Any], version: int | None, owner: str | None = None) -> int:
        """Store credentials that are based on `version` (None for the first ones); return the new version.

        Fails with StaleCredentialsError if the stored credentials have another version.
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
        """Return the values by id, read in one statement. Missing ids are absent."""
        if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
            raise InvalidInputError(fields={"ids": "is not a list"})
        wanted = [_validate_name("ids", key_id) for key_id in ids]
        stored = self._read_only_repositories.whatsapp_keys.values(_validate_name("type", key_type), wanted)
        decrypt = self._cipher.decrypt
        return {
            key: baileys_json.decode(decrypt(value)) for key, value in stored.items()
        } or self._empty_result({})

    @operation(WhatsAppKey, "whatsapp")
    def set_keys(self, data: Mapping[str, Mapping[str, Any]], owner: str | None = None) -> None:
        """Store keys `{type: {id: value}}` of any types in one transaction.

        The value None deletes a key. Deleting a missing key is not an error.
        """
        rows, deleted = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if any(key_type == "session" for key_type, _ in deleted):
                WhatsAppLeases(uow.session, self.company_id).record_max_sessions()
            uow.whatsapp_keys.write(rows, deleted)
            if not rows:
                self._require_company(uow)

        self._write_with_lease(work, owner)

    @operation(WhatsAppKey, "whatsapp")
    def statistics(self) -> SessionStatistics:
        """Return the numbers of keys by type and the time of the last write."""
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
        """Log out: delete credentials, keys and the stored state of the session."""

        def work(uow: UnitOfWork) -> DeletedCounts:
            self._require_company(uow)
            keys = uow.whatsapp_keys.delete(company_id=self.company_id)
            WhatsAppLeases(uow.session, self.company_id).delete()
            return DeletedCounts(uow.whatsapp_auth.delete(company_id=self.company_id), keys)

        return self._transact(work)

    @operation(WhatsAppState, "whatsapp")
    def take_lease(self, owner: str) -> Lease:
        """Give the lease to the worker `owner`. As in WhatsApp, the newest connection wins.

        The next write of the worker that held the lease fails with SessionHeldError, and health reports the
        conflict.
        """
        owner = validate_owner("owner", owner)
        before = self._transact(
            lambda uow: WhatsAppLeases(uow.session, self.company_id).take_lease(owner, LEASE_DURATION)
        )
        return Lease(owner, int(LEASE_DURATION.total_seconds()), before)

    @operation(WhatsAppState, "whatsapp")
    def release_lease(self, owner: str) -> None:
        """Release the lease if the worker `owner` holds it."""
        owner = validate_owner("owner", owner)
        self._transact(lambda uow: WhatsAppLeases(uow.session, self.company_id).release_lease(owner))

    @operation(WhatsAppAuth, "whatsapp")
    def import_session(
        self, creds: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]], dry_run: bool = False
    ) -> None:
        """Store a complete session. Fails with StaleCredentialsError if the company already has one."""
        stored = self._cipher.encrypt(baileys_json.encode(dict(creds)))
        rows, _ = self._rows(data)

        def work(uow: UnitOfWork) -> None:
            if not uow.whatsapp_auth.insert_first(stored):
                raise StaleCredentialsError(
                    "This company already has a session. Delete it first: `frontdesk whatsapp forget`."
                )
            uow.whatsapp_keys.write(rows, ())
            if dry_run:
                uow.session.rollback()

        self._transact(work)

    def _rows(self, data: Any) -> tuple[list[StoredKey], list[tuple[str, str]]]:
        """Return the keys to store and the keys to delete, each in the order of type and id."""
        if not isinstance(data, Mapping) or not all(isinstance(keys, Mapping) for keys in data.values()):
            raise InvalidInputError(fields={"data": "is not like {type: {id: value}}"})
        now = datetime.now(UTC)
        rows: list[StoredKey] = []
        deleted: list[tuple[str, str]] = []
        for key_type in sorted(_validate_name("type", name) for name in data):
            expires_at = self._retention.expires_at(key_type, now)
            values = data[key_type]
            for key_id in sorted(_validate_name("id", name) for name in values):
                if values[key_id] is None:
                    deleted.append((key_type, key_id))
                else:
                    value = self._cipher.encrypt(baileys_json.encode(values[key_id]))
                    rows.append((key_type, key_id, value, expires_at))
        return rows, deleted

    def _write_with_lease(self, function: Callable[[UnitOfWork], T], owner: str | None) -> T:
        """Run a write for the worker `owner`. Raises SessionHeldError if another worker holds the lease."""
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
        """Return `answer` if the company exists. Raises UnknownCompanyError if it does not."""
        if self._read_only_repositories.companies.get() is None:
            raise UnknownCompanyError
        return answer

    @staticmethod
    def _require_company(uow: UnitOfWork) -> None:
        if uow.companies.get() is None:
            raise UnknownCompanyError


def _validate_name(field_name: str, name: Any) -> str:
    """Validate a key type or id. The error does not contain it, because ids contain phone numbers."""
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
