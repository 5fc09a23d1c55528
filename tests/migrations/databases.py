"""The database of a test, and rows for it in the old schema."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import psycopg
from alembic import command
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from app.database.alembic_revision import read_revision
from app.migrations import runner


@dataclass(frozen=True)
class Database:
    """A database of a test: its URL, and shortcuts for queries, writes and migrations."""

    url: str

    def connect(self, **options: Any) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row, **options)

    def execute(self, statement: str, *values: Any) -> None:
        with self.connect() as connection:
            connection.execute(statement, values or None)

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self.connect() as connection:
            return connection.execute(statement, values or None).fetchall()

    def value(self, statement: str, *values: Any) -> Any:
        (row,) = self.rows(statement, *values)
        (value,) = row.values()
        return value

    def values(self, statement: str, *values: Any) -> list[Any]:
        return [next(iter(row.values())) for row in self.rows(statement, *values)]

    def upgrade(self, revision: str = "head", **options: str) -> runner.UpgradeResult:
        return runner.upgrade(self.url, revision, options)

    def downgrade(self, revision: str, **options: str) -> None:
        command.downgrade(runner.alembic_config(self.url, options), revision)

    def check(self) -> None:
        """Raise CommandError if the schema differs from the models (`alembic check`)."""
        command.check(runner.alembic_config(self.url))

    def insert(self, table: str, *rows: dict[str, Any]) -> list[int]:
        """Insert rows; columns without a value get the defaults of OLD_ROWS. Return the ids."""
        with self.connect() as connection, connection.transaction():
            return [insert_row(connection, table, {**OLD_ROWS[table], **row}) for row in rows]

    def archived(self, table: str) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT row, reason, kept_id FROM archived_rows WHERE table_name = %s ORDER BY id", table
        )

    @property
    def revision(self) -> str | None:
        with runner.migration_engine(self.url) as engine, engine.connect() as connection:
            return read_revision(connection.exec_driver_sql)

    @property
    def state(self) -> runner.SchemaState:
        with runner.migration_engine(self.url) as engine, engine.connect() as connection:
            return runner.schema_state(connection)


JSON_COLUMNS = ("slots", "service_ids", "context", "creds", "value")

# The required columns of each table of the old schema.
OLD_ROWS: dict[str, dict[str, Any]] = {
    "companies": {"company_id": 1, "title": "Salon"},
    "clients": {"yclients_id": 1, "company_id": 1, "phone": "+79686484488", "name": "Анна"},
    "services": {"yclients_id": 1, "company_id": 1, "title": "Стрижка"},
    "staff": {"yclients_id": 1, "company_id": 1, "name": "Ольга"},
    "staff_schedules": {"staff_id": 1, "company_id": 1, "date": "2026-12-01"},
    "bookings": {"yclients_id": 1, "company_id": 1, "datetime": "2026-12-01 10:00"},
    "dialog_contexts": {"user_id": "1", "company_id": 1},
    "whatsapp_auth": {"company_id": "1", "creds": {}},
    "whatsapp_keys": {"company_id": "1", "key_type": "session", "key_id": "1", "value": {}},
}


def insert_row(connection: psycopg.Connection[dict[str, Any]], table: str, row: dict[str, Any]) -> int:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    values = [
        Jsonb(value) if isinstance(value, dict | list) or column in JSON_COLUMNS else value
        for column, value in row.items()
    ]
    inserted = connection.execute(statement, values).fetchone()
    assert inserted is not None
    return inserted["id"]


MakeDatabase = Callable[..., Database]


def url_of(server_url: str, name: str) -> str:
    """Return the server's URL with the name of another database."""
    parts = {**conninfo_to_dict(server_url), "dbname": name}
    return "postgresql://?" + urlencode({key: value for key, value in parts.items() if value})
