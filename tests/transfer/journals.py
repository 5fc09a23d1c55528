"""The writers' journals: files with the acknowledged states, which survive `kill -9` of a writer."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The rows of a writer's company, as JSON. Each kind of writer has its own format.
State = dict[str, Any]

FENCED_SQLSTATE = "FD001"
# After these errors, or without an answer (None), it is unknown whether the statement was executed.
UNKNOWN_OUTCOME_SQLSTATES = (None, "57P01", "57P02")
RETRYABLE_SQLSTATES = ("40001", "40P01")


class LostWriteError(Exception):
    """An acknowledged write is missing."""


class Journal:
    """The states that a database may hold: the last acknowledged one, or one announced after it."""

    def __init__(self, path: Path, empty: State) -> None:
        self._path = path
        self.allowed: list[State] = [empty]
        for line in path.read_text().splitlines() if path.exists() else ():
            kind, _, states = line.partition(" ")
            if kind == "ack":
                self.allowed = self.allowed[-1:]
            elif kind == "void":
                self.allowed = self.allowed[:1]
            elif kind == "intent":
                self.allowed = [self.allowed[0], *json.loads(states)]
            elif kind == "seen":
                self.allowed = json.loads(states)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @property
    def is_sure(self) -> bool:
        """True if the outcome of every announced change is known."""
        return len(self.allowed) == 1

    def intend(self, *states: State) -> None:
        """Announce the states that a change will produce: intermediate ones first, the final state last."""
        self.allowed = [self.allowed[0], *states]
        self._write("intent", states)

    def acknowledge(self) -> None:
        """Record that the announced change is committed."""
        self.allowed = self.allowed[-1:]
        self._write("ack")

    def void(self) -> None:
        """Record that the announced change has certainly failed."""
        self.allowed = self.allowed[:1]
        self._write("void")

    def check(self, read: Callable[[], State], enter: Callable[[], object]) -> State:
        """Return the current state of the database. Raises LostWriteError if it is not an allowed state.

        `enter` passes the fence, and fails on a standby. It is needed because reads are not fenced and a
        standby may be behind.
        """
        state = read()
        if state not in self.allowed:
            enter()
            state = read()
        if state not in self.allowed:
            raise LostWriteError(f"{state} is not in {self.allowed}")
        if not self.is_sure:
            self.allowed = [state]
            self._write("seen", self.allowed)
        return state

    def close(self) -> None:
        os.close(self._file)

    def _write(self, kind: str, states: object = None) -> None:
        os.write(self._file, f"{kind} {json.dumps(states) if states else ''}\n".encode())
