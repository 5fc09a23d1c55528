"""Write alembic/shapes.json: the schema after each migration, read from an empty database at DATABASE_URL.

python .ci/on_new_server.py python .ci/describe_chain.py

`frontdesk db adopt` compares a database with this file. Each step contains only the changes to the schema.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.adoption import adopt
from app.migrations import runner, schema_snapshot


def describe(url: str) -> list[dict[str, object]]:
    """Run the migrations one by one on the empty database at `url` (libpq); return the changes of each."""
    steps: list[dict[str, object]] = []
    before: dict[str, str] = {}
    with runner.migration_engine(url) as engine:
        for revision in reversed(runner.revisions()):
            runner.upgrade(url, revision)
            with engine.connect() as connection:
                now = schema_snapshot.read(connection, schema_snapshot.existing_tables(connection))
            steps.append(
                {
                    "revision": revision,
                    "gone": [entry for entry in before if entry not in now],
                    "new": {entry: made for entry, made in now.items() if before.get(entry) != made},
                }
            )
            before = now
    return steps


if __name__ == "__main__":
    written = json.dumps(describe(os.environ["DATABASE_URL"]), indent=1) + "\n"
    adopt.SNAPSHOTS_FILE.write_text(written)
