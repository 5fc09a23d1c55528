"""What leaves the process while tests run: log lines and Sentry's envelopes, searched for persons."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from app.observability.logs import JsonFormatter

# How tests write their clients: a phone in any form, a name, an e-mail address.
PERSONAL = re.compile(
    r"\b7?968\d{7}\b|(?<![\w.])[78][3-79]\d{9}\b|\+\d{10,15}\b"
    r"|\b(?:Anna|Анна|Ira|Ира)\b|[\w.]+@[\w-]+\.[a-z]{2,}\b"
)


class SentryRecorder(Transport):
    """Keeps what would be sent to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            self.payloads.append((item.type, json.loads(item.get_bytes())))

    @property
    def events(self) -> list[Any]:
        """Errors and messages."""
        return [payload for kind, payload in self.payloads if kind == "event"]

    @property
    def transactions(self) -> list[Any]:
        """Traces, with their spans."""
        return [payload for kind, payload in self.payloads if kind == "transaction"]


class LogRecorder(logging.Handler):
    """Keeps what is logged, as production writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("tests"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class OutputWatcher:
    """What real processes write, to the terminal or to their log, read as far as it has come."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def add(self, file: Path) -> None:
        """Watch what is written to this file from now on."""
        self._read[file] = 0

    def new(self) -> str:
        """What has been written since the last call."""
        found = b""
        for file, position in [*self._read.items()]:
            if not file.is_file():  # a device, or its test has removed it
                del self._read[file]
            elif file.stat().st_size > position:
                with file.open("rb") as opened:
                    opened.seek(position)
                    found += opened.read()
                    self._read[file] = opened.tell()
        return found.decode(errors="replace")


outputs = OutputWatcher()


def find_personal_data(text: str) -> list[str]:
    """What in a text looks like a person."""
    return PERSONAL.findall(text)


def repetitions() -> float:
    """How many units of work have run one statement ten times."""
    return REGISTRY.get_sample_value("frontdesk_db_repeated_statements_total") or 0.0
