"""Recorders of output (log lines, Sentry envelopes, process output), and a search for personal data in it."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from app.observability.logs import JsonFormatter

# Personal data of the clients in tests: a phone in any form, a name, an e-mail address.
PERSONAL = re.compile(
    r"\b7?968\d{7}\b|(?<![\w.])[78][3-79]\d{9}\b|\+\d{10,15}\b"
    r"|\b(?:Anna|Анна|Ira|Ира)\b|[\w.]+@[\w-]+\.[a-z]{2,}\b"
)


class SentryRecorder(Transport):
    """A Sentry transport that stores payloads instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Store the items of the envelope."""
        for item in envelope.items:
            self.payloads.append((item.type, json.loads(item.get_bytes())))

    @property
    def events(self) -> list[Any]:
        """Error and message events."""
        return [payload for kind, payload in self.payloads if kind == "event"]

    @property
    def transactions(self) -> list[Any]:
        """Traces with their spans."""
        return [payload for kind, payload in self.payloads if kind == "transaction"]


class LogRecorder(logging.Handler):
    """A log handler that stores log lines in the JSON format of production."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("tests"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record and store the line."""
        self.lines.append(self.format(record))


class OutputWatcher:
    """Reader of the output files of real processes, which returns only new output."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def add(self, file: Path) -> None:
        """Watch this file."""
        self._read[file] = 0

    def new(self) -> str:
        """Return the output written to all files since the last call."""
        output = b""
        for file, position in [*self._read.items()]:
            if not file.is_file():  # a device, or removed by its test
                del self._read[file]
            elif file.stat().st_size > position:
                with file.open("rb") as opened:
                    opened.seek(position)
                    output += opened.read()
                    self._read[file] = opened.tell()
        return output.decode(errors="replace")


outputs = OutputWatcher()


def find_personal_data(text: str) -> list[str]:
    """Return the parts of a text that look like personal data."""
    return PERSONAL.findall(text)


def repetitions() -> float:
    """Return the number of units of work that have run one statement ten times (the N+1 counter)."""
    name = "frontdesk_db_repeated_statements_total"
    # The tests call this twice each. The registry without the restriction would collect all metrics.
    metrics = REGISTRY.restricted_registry([name]).collect()
    return sum(sample.value for metric in metrics for sample in metric.samples if sample.name == name)
