"""Run a command with DATABASE_URL set to a new PostgreSQL server, which is deleted afterwards.

python .ci/on_new_server.py alembic upgrade head
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers import Server


def main() -> int:
    server = Server()
    try:
        environment = os.environ | {"DATABASE_URL": server.url}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode
    finally:
        server.delete()


if __name__ == "__main__":
    sys.exit(main())
