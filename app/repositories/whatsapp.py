"""Credentials and Signal keys of the WhatsApp worker, stored as opaque bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Text, delete, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from app.database.bulk_merge import MergeTarget, OverwritePolicy, merge
from app.models import WhatsAppAuth, WhatsAppKey
from app.repositories.base import Repository
from app.schemas import rows as schemas

StoredKey = tuple[str, str, bytes, datetime | None]  # key_type, key_id, value, expires_at

_COLUMNS = ("key_type", "key_id", "value", "expires_at")


class WhatsAppAuthRepository(Repository[WhatsAppAuth]):
    """The credentials of the salon: one row."""

    model = WhatsAppAuth
    schema = schemas.WHATSAPP_AUTH
    target = MergeTarget(WhatsAppAuth, (), OverwritePolicy.ALWAYS)

    def insert_first(self, creds: bytes) -> bool:
        """Insert the first credentials as version 1. Return False if credentials exist already."""
        statement = (
            insert(WhatsAppAuth)
            .values(company_id=self.tenant.company_id, creds=creds)
            .on_conflict_do_nothing(index_elements=["company_id"])
            .returning(WhatsAppAuth.id)
        )
        return self._open_session.scalar(statement) is not None

    def replace_version(self, creds: bytes, version: int) -> bool:
        """Store the credentials as `version + 1`. Return False if the stored version is not `version`."""
        statement = (
            update(WhatsAppAuth)
            .where(*self._where({"version": version}))
            .values(creds=creds, version=version + 1, updated_at=func.now())
            .returning(WhatsAppAuth.id)
        )
        return self._open_session.scalar(statement) is not None


class WhatsAppKeyRepository(Repository[WhatsAppKey]):
    """The Signal keys of the salon."""

    model = WhatsAppKey
    schema = schemas.WHATSAPP_KEY
    target = MergeTarget(WhatsAppKey, ("key_type", "key_id"), OverwritePolicy.ALWAYS)

    def values(self, key_type: str, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values by id, in one query. Omit missing ids; include expired keys."""
        found: Any = self._reader.rows(
            "SELECT key_id, value FROM whatsapp_keys WHERE company_id = %(company_id)s"
            " AND key_type = %(key_type)s AND key_id = ANY(%(ids)s::text[])",
            company_id=self.tenant.company_id,
            key_type=key_type,
            ids=list(ids),
        )
        return dict(found)

    def count_by_type(self) -> Sequence[Sequence[Any]]:
        """Return `(key_type, number of keys, number of expired keys, last write)` for each type."""
        return self._reader.rows(
            "SELECT key_type, count(*), count(*) FILTER (WHERE expires_at < now()), max(updated_at)"
            " FROM whatsapp_keys WHERE company_id = %(company_id)s GROUP BY key_type ORDER BY key_type",
            company_id=self.tenant.company_id,
        )

    def write(self, rows: Sequence[StoredKey], gone: Sequence[tuple[str, str]]) -> None:
        """Write `rows` and delete the keys `gone` (type and id). No key may occur twice or in both."""
        if gone:
            # Lock in the order of the merge, so that concurrent writers of the same keys cannot deadlock.
            self._lock([*gone, *(row[:2] for row in rows)])
            self._open_session.execute(delete(WhatsAppKey).where(*self._of(gone)))
        merge(self._connection, self.target, self.tenant.company_id, _COLUMNS, rows)

    def _lock(self, keys: Sequence[tuple[str, str]]) -> None:
        key = WhatsAppKey.key_type, WhatsAppKey.key_id
        statement = select(WhatsAppKey.id).where(*self._of(keys)).order_by(*key).with_for_update()
        self._open_session.execute(statement)

    def _of(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        types, ids = (literal(list(column), ARRAY(Text)) for column in zip(*keys, strict=True))
        wanted = func.unnest(types, ids).table_valued("type", "id").render_derived()
        return [
            *self._where({}),
            tuple_(WhatsAppKey.key_type, WhatsAppKey.key_id).in_(select(wanted.c.type, wanted.c.id)),
        ]
