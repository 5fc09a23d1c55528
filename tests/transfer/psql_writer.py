"""A writer that sends SQL to a real `psql`: single statements, or BEGIN … COMMIT blocks.

With `ON_ERROR_STOP`, psql exits at the first error and does not execute the remaining statements. The writer
covers writes that no operation of the data layer makes: rows of operators, and JSON null.
"""

import json
import random
import re
import subprocess
import time
from collections.abc import Callable
from copy import deepcopy
from tempfile import TemporaryFile
from typing import Any

import psycopg

from app.backup.pg_programs import find_program
from tests.transfer.journals import (
    FENCED_SQLSTATE,
    RETRYABLE_SQLSTATES,
    UNKNOWN_OUTCOME_SQLSTATES,
    Journal,
    State,
)

AUTOCOMMIT, BLOCKS = KINDS = ("psql", "psql with BEGIN")
COPIED_ROWS = 30  # rows in each \copy
MAX_ROWS_PER_KIND = 12  # approximate limit of the rows in each table
END_MARKER = "-- done --"
JSONS = ("null", '{"a": null}', '"null"', "[1.50]", '"' + "й" * 300 + '"')

Act = Callable[[State], str]

# `dialogs`: stage and context by user; `archived`: the JSON of each row by its reason; `backups`: rows by
# name; `clients`: their number, and the sums of their YClients ids and visits.
EMPTY: State = {"dialogs": {}, "archived": {}, "backups": {}, "clients": [0, 0, 0]}
READ = """
SELECT json_build_object(
    'dialogs', (SELECT coalesce(json_object_agg(user_id, json_build_array(stage, context::text)), '{{}}')
        FROM dialog_contexts WHERE company_id = {company}),
    'archived', (SELECT coalesce(json_object_agg(reason, "row"::text), '{{}}')
        FROM archived_rows WHERE table_name = 'table {company}'),
    'backups', (SELECT coalesce(json_object_agg(backup, rows), '{{}}')
        FROM backup_runs WHERE problem = 'none {company}'),
    'clients', (SELECT
        json_build_array(count(*), coalesce(sum(yclients_id), 0), coalesce(sum(visit_count), 0))
        FROM clients WHERE company_id = {company})
)::jsonb;
"""


def read(connection: psycopg.Connection[Any], company: int) -> State:
    """Return the rows of the company as a state."""
    row = connection.execute(READ.format(company=company)).fetchone()
    assert row is not None
    return dict(row[0])


class PsqlError(Exception):
    """psql has exited. There is no `sqlstate` (None) if the connection was lost or could not be made."""

    def __init__(self, stderr: str) -> None:
        super().__init__(stderr)
        match = re.search(r"(?:ERROR|FATAL): +([0-9A-Z]{5}):", stderr)
        self.sqlstate = match[1] if match else None


class Psql:
    """A psql process that reads its commands from a pipe."""

    def __init__(self, url: str) -> None:
        self._errors = TemporaryFile()  # noqa: SIM115 - open as long as the program runs
        self._process = subprocess.Popen(
            [
                find_program("psql", 15).path,
                "-XqAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=verbose",
                "-d",
                url,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    def run(self, commands: str) -> str:
        """Run commands and return their output. Raises PsqlError at the first error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{commands}\n\\echo {END_MARKER}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer = []
        for line in self._process.stdout:
            if line.strip() == END_MARKER:
                return "".join(answer)
            answer.append(line)
        raise self._failed()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _failed(self) -> PsqlError:
        self._process.wait()
        self._errors.seek(0)
        return PsqlError(self._errors.read().decode())


class PsqlWriter:
    """A writer with one psql process. It changes to the other side when its writes are fenced."""

    def __init__(self, urls: list[str], company: int, kind: str, journal: Journal, seed: int) -> None:
        self._urls = urls
        self._at = 0
        self._psql: Psql | None = None
        self._company = company
        self._in_blocks = kind == BLOCKS
        self._journal = journal
        self._random = random.Random(seed)
        self._deck: list[Act] = []

    def change(self) -> bool:
        """Run one transaction; return False if it must be retried.

        Raises LostWriteError if acknowledged rows are missing, and PsqlError for other errors.
        """
        is_announced = False
        try:
            psql = self._psql = self._psql or Psql(self._urls[self._at])
            if self._in_blocks:
                level = self._random.choice(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
                psql.run(f"BEGIN ISOLATION LEVEL {level};")
            state = deepcopy(
                self._journal.check(
                    lambda: dict(json.loads(psql.run(READ.format(company=self._company)))),
                    lambda: psql.run("SELECT frontdesk_transfer.enter();"),
                )
            )
            acts = self._random.randint(1, 3) if self._in_blocks else 1
            statements = [self._next_act()(state) for _ in range(acts)]
            if self._random.random() < 0.2:
                time.sleep(self._random.uniform(0, 0.03))  # allow other changes between snapshot and write
            self._journal.intend(state)
            is_announced = True
            psql.run("\n".join([*statements, *["COMMIT;"] * self._in_blocks]))
        except PsqlError as error:
            self._recover(error, is_announced)
            return False
        self._journal.acknowledge()
        return True

    def close(self) -> None:
        """End the psql process."""
        if self._psql is not None:
            self._psql.end()
            self._psql = None

    def _recover(self, error: PsqlError, is_announced: bool) -> None:
        self.close()
        if error.sqlstate in UNKNOWN_OUTCOME_SQLSTATES:
            time.sleep(0.05)
            return
        if is_announced:
            self._journal.void()
        if error.sqlstate == FENCED_SQLSTATE:
            self._at = 1 - self._at
        elif error.sqlstate not in RETRYABLE_SQLSTATES:
            raise error

    def _next_act(self) -> Act:
        """Return the next action. All actions are used once, in random order, before any is repeated."""
        if not self._deck:
            self._deck = [
                self._remember, self._forget, self._archive, self._correct, self._back_up, self._copy,
                self._visit,
            ]  # fmt: skip
            self._random.shuffle(self._deck)
        return self._deck.pop()

    # Actions: each changes the expected state and returns the statement for the same change.

    def _remember(self, state: State) -> str:
        user = str(self._random.randint(1, MAX_ROWS_PER_KIND))
        stage = self._random.choice(["", "NULL", "ask"])
        context = self._random.choice(JSONS)
        state["dialogs"][user] = [stage, context]
        return (
            "INSERT INTO dialog_contexts (company_id, user_id, stage, context)"
            f" VALUES ({self._company}, '{user}', '{stage}', '{context}')"
            " ON CONFLICT (user_id, company_id) DO UPDATE"
            " SET stage = excluded.stage, context = excluded.context;"
        )

    def _forget(self, state: State) -> str:
        user = str(self._random.randint(1, MAX_ROWS_PER_KIND))
        state["dialogs"].pop(user, None)
        return f"DELETE FROM dialog_contexts WHERE company_id = {self._company} AND user_id = '{user}';"

    def _archive(self, state: State) -> str:
        if len(state["archived"]) > MAX_ROWS_PER_KIND:
            state["archived"] = {}
            return f"DELETE FROM archived_rows WHERE table_name = 'table {self._company}';"
        reason = str(len(state["archived"]))
        row = state["archived"][reason] = self._random.choice(JSONS)
        return (
            'INSERT INTO archived_rows (table_name, "row", reason)'
            f" VALUES ('table {self._company}', '{row}', '{reason}');"
        )

    def _correct(self, state: State) -> str:
        row = self._random.choice(JSONS)
        state["archived"] = dict.fromkeys(state["archived"], row)
        return f"UPDATE archived_rows SET \"row\" = '{row}' WHERE table_name = 'table {self._company}';"

    def _back_up(self, state: State) -> str:
        if len(state["backups"]) > MAX_ROWS_PER_KIND:
            state["backups"] = {}
            return f"DELETE FROM backup_runs WHERE problem = 'none {self._company}';"
        name = str(len(state["backups"]))
        rows = state["backups"][name] = self._random.choice([None, 0, 2**40])
        value = "NULL" if rows is None else rows
        return (
            "INSERT INTO backup_runs (kind, backup, outcome, problem, seconds, rows) VALUES"
            f" ('create', '{name}', 'good', 'none {self._company}', 0.1, {value});"
        )

    def _copy(self, state: State) -> str:
        """Copy many rows at once, or delete all of them if there are too many."""
        count, numbers, _ = state["clients"]
        if count > 5 * COPIED_ROWS:
            state["clients"] = [0, 0, 0]
            return f"DELETE FROM clients WHERE company_id = {self._company};"
        new = range(count + 1, count + COPIED_ROWS + 1)
        state["clients"][:2] = [count + COPIED_ROWS, numbers + sum(new)]
        rows = "\n".join(f"{self._company}\t{number}\tBulk" for number in new)
        return f"\\copy clients (company_id, yclients_id, name) FROM STDIN\n{rows}\n\\."

    def _visit(self, state: State) -> str:
        state["clients"][2] += state["clients"][0]
        return f"UPDATE clients SET visit_count = visit_count + 1 WHERE company_id = {self._company};"
