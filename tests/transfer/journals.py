"""What writers have been promised, in a file that outlives `kill -9`, and how a writer checks it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a writer's company holds, as JSON; each kind of writer has a form of its own.
State = dict[str, Any]

FENCED_SQLSTATE = "FD001"
# Without an answer, or with one of these, a statement may or may not have been carried out.
UNKNOWN_OUTCOME_SQLSTATES = (None, "57P01", "57P02")
RETRYABLE_SQLSTATES = ("40001", "40P01")


class LostWriteError(Exception):
    """What was acknowledged is not there."""


class Journal:
    """What may be there: the last acknowledged state, or one of those that were announced after it."""

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
        """Whether there is no intention of which nobody knows what became of it."""
        return len(self.allowed) == 1

    def intend(self, *states: State) -> None:
        """Announce what is about to be, the last state in the end, the others on the way."""
        self.allowed = [self.allowed[0], *states]
        self._write("intent", states)

    def acknowledge(self) -> None:
        """The last intention is committed."""
        self.allowed = self.allowed[-1:]
        self._write("ack")

    def void(self) -> None:
        """The last intention has failed for certain."""
        self.allowed = self.allowed[:1]
        self._write("void")

    def check(self, read: Callable[[], State], enter: Callable[[], object]) -> State:
        """What is there now. Raises LostWriteError where it is nothing of what may be.

        `enter` passes the fence: reads do not, and a standby may lag.
        """
        found = read()
        if found not in self.allowed:
            enter()
            found = read()
        if found not in self.allowed:
            raise LostWriteError(f"{found} is none of {self.allowed}")
        if not self.is_sure:
            self.allowed = [found]
            self._write("seen", self.allowed)
        return found

    def close(self) -> None:
        os.close(self._file)

    def _write(self, kind: str, states: object = None) -> None:
        os.write(self._file, f"{kind} {json.dumps(states) if states else ''}\n".encode())
