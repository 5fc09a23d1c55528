"""Encrypting what is stored with the newest key. Run again after an interruption, it goes on."""

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
OnProgress = Callable[[int], None]  # values looked at


@dataclass
class Rotation:
    """Values: encrypted anew, with the newest key already, changed meanwhile, and not readable at all."""

    rotated: int = 0
    current: int = 0
    changed: int = 0
    unreadable: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rotate_keys(
    settings: Settings, dry_run: bool = False, on_progress: OnProgress = lambda done: None
) -> Rotation:
    """Encrypt every value with the first of WHATSAPP_ENCRYPTION_KEYS, plain ones too.

    What it has done is done: a value that the first key reads is not touched again. A value that a
    worker writes meanwhile is left to that worker. Raises ConfigurationError, FrontdeskError.
    """
    vault = Cipher.from_settings(settings)
    if vault.is_disabled:
        raise ConfigurationError("WHATSAPP_ENCRYPTION_KEYS: is required, with the new key in front")
    result = Rotation()
    try:
        with connect_directly(settings) as connection:
            for table, column in ENCRYPTED_COLUMNS:
                _rotate(connection, vault, table, column, dry_run, result, on_progress)
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
    # Not updated_at: nobody has written the key.
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
            columns = [list(each) for each in zip(*changes, strict=True)]
            done = len(changes) if dry_run else connection.execute(change, columns).rowcount
            result.rotated += done
            result.changed += len(changes) - done
        on_progress(len(rows))
