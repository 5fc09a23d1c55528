"""Sessions in the tables of the legacy system, which has JSONB values and company ids as text."""

from collections.abc import Iterator

import psycopg
from psycopg import sql

from app.config import Settings
from app.database.connection import CLIENT_ENCODING, Connection
from app.errors import ConfigurationError, InvalidInputError, UnavailableError
from app.whatsapp import baileys_json
from app.whatsapp.import_folder import ImportedSession

# Matches all spellings of one company id, such as '0962302' and ' 962302'.
_FROM_COMPANY = " FROM {} WHERE trim(company_id::text) ~ '^0*{}$'"


def read_tables(settings: Settings, company_id: int | None = None) -> Iterator[tuple[int, ImportedSession]]:
    """Yield (company id, session) for each company with credentials in LEGACY_DATABASE_URL, or for one.

    Raises ConfigurationError without LEGACY_DATABASE_URL, UnavailableError if the database does not respond,
    and InvalidInputError if it has no such tables or invalid credentials.
    """
    if settings.legacy_database_url is None:
        raise ConfigurationError("LEGACY_DATABASE_URL: is required to read the tables of the legacy system")
    try:
        with psycopg.connect(
            settings.legacy_database_url.get_secret_value(),
            connect_timeout=10,
            client_encoding=CLIENT_ENCODING,
        ) as connection:
            connection.read_only = True
            for company in _companies(connection) if company_id is None else [company_id]:
                session = _read(connection, company)
                if session is not None:
                    yield company, session
    except psycopg.OperationalError as error:
        raise UnavailableError(f"Cannot read LEGACY_DATABASE_URL: {error}") from None
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        raise InvalidInputError("LEGACY_DATABASE_URL has no session tables of the legacy system.") from None


def _companies(connection: Connection) -> list[int]:
    rows = connection.execute(
        "SELECT DISTINCT trim(company_id::text)::bigint FROM whatsapp_auth"
        " WHERE trim(company_id::text) ~ '^[0-9]{1,18}$' ORDER BY 1"
    )
    return [company for (company,) in rows if company > 0]


def _read(connection: Connection, company: int) -> ImportedSession | None:
    table = sql.SQL("SELECT creds::text" + _FROM_COMPANY).format(
        sql.Identifier("whatsapp_auth"), sql.SQL(str(company))
    )
    rows = connection.execute(table).fetchall()
    if not rows:
        return None
    if len(rows) > 1:
        raise InvalidInputError(f"Company {company} has {len(rows)} rows of credentials in whatsapp_auth.")
    creds = baileys_json.decode(rows[0][0].encode())
    if not isinstance(creds, dict):
        raise InvalidInputError(f"The credentials of company {company} are not an object with fields.")
    session = ImportedSession(creds)
    keys = sql.SQL("SELECT key_type, key_id, value::text" + _FROM_COMPANY).format(
        sql.Identifier("whatsapp_keys"), sql.SQL(str(company))
    )
    for key_type, key_id, value in connection.execute(keys):
        session.add(key_type, key_id, value.encode())
    return session
