"""Re-encryption of stored values with the newest key. After an interruption, another run continues."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from app.config import Settings
from app.database.connection import Connection, connect_directly
from app.errors import DRIVER_ERRORS, ConfigurationError, to_frontdesk_error
from app.whatsapp.encryption import Cipher
from app.whatsapp.errors import UnreadableValueError

VALUES_PER_TRANSACTION = 500
ENCRYPTED_COLUMNS = (("whatsapp_auth", "creds"), ("whatsapp_keys", "value"))
OnProgress = Callable[[int], None]  # (values processed since the last call)


@dataclass
class Rotation:
    """Numbers of values: re-encrypted, already current, changed concurrently, and unreadable."""

    rotated: int = 0
    current: int = 0
    changed: int = 0
    unreadable: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        return asdict(self)


def rotate_keys(
    settings: Settings, dry_run: bool = False, on_progress: OnProgress = lambda done: None
) -> Rotation:
    """Encrypt every stored value, including unencrypted ones, with the first WHATSAPP_ENCRYPTION_KEYS key.

    Values that are already encrypted with the first key, or that a worker changes concurrently, are not
    written. Raises ConfigurationError without keys, and FrontdeskError if the database fails.
    """
    cipher = Cipher.from_settings(settings)
    if cipher.is_disabled:
        raise ConfigurationError("WHATSAPP_ENCRYPTION_KEYS: is required, with the new key first")
    result = Rotation()
    try:
        with connect_directly(settings) as connection:
            for table, column in ENCRYPTED_COLUMNS:
                _rotate(connection, cipher, table, column, dry_run, result, on_progress)
    except DRIVER_ERRORS as error:
        raise to_frontdesk_error(error) from error
    return result


def _rotate(
    connection: Connection,
    cipher: Cipher,
    table: str,
    column: str,
    dry_run: bool,
    result: Rotation,
    on_progress: OnProgress,
) -> None:
    names = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
    page = sql.SQL(
        "SELECT company_id, id, {column} FROM {table} WHERE (company_id, id) > (%s, %s)"
        " ORDER BY company_id, id LIMIT %s"
    ).format(**names)
    # updated_at does not change, because health reports it as the worker's last write.
    change = sql.SQL(
        "UPDATE {table} AS t SET {column} = n.new FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[],"
        " %s::bytea[]) AS n (company_id, id, old, new)"
        " WHERE t.company_id = n.company_id AND t.id = n.id AND t.{column} = n.old"
    ).format(**names)
    last = (0, 0)
    while rows := connection.execute(page, (*last, VALUES_PER_TRANSACTION)).fetchall():
        last = rows[-1][:2]
        changes = []
        for company_id, row_id, stored in rows:
            if cipher.is_current(stored):
                result.current += 1
                continue
            try:
                changes.append((company_id, row_id, stored, cipher.encrypt(cipher.decrypt(stored))))
            except UnreadableValueError:
                result.unreadable += 1
        if changes:
            columns = [list(values) for values in zip(*changes, strict=True)]
            rotated = len(changes) if dry_run else connection.execute(change, columns).rowcount
            result.rotated += rotated
            result.changed += len(changes) - rotated
        on_progress(len(rows))
