"""The network latency of both servers, and how it lengthens a write pause."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Self

from app.database.connection import Connection

# Sequential round trips to a server.
PAUSE_ROUND_TRIPS = 5  # in a write pause: close and query; fetch; apply; hand over; open
CYCLE_ROUND_TRIPS = 6  # in an apply cycle of the relay
# Share of max_pause that round trips may take; the rest is for the work of the servers.
MAX_LATENCY_SHARE = 0.75
MEASUREMENTS = 3  # per server; the fastest counts

SHORT_LOG_ENTRIES = 2_000  # change log entries that are applied in a fraction of a second
CHANGES_PER_SECOND = 8_000  # upper estimate of the log entries that busy writers add


@dataclass(frozen=True)
class Latency:
    """The round-trip time, in seconds, to the server with the higher latency."""

    round_trip: float

    @classmethod
    def measure(cls, connections: Iterable[Connection]) -> Self:
        """Measure the round-trip time of each connection, and return the highest."""
        return cls(max(min(_measure_round_trip(each) for _ in range(MEASUREMENTS)) for each in connections))

    @property
    def cycle_seconds(self) -> float:
        """Seconds that the round trips of an apply cycle take."""
        return CYCLE_ROUND_TRIPS * self.round_trip

    @property
    def short_log_entries(self) -> int:
        """Number of log entries that may be pending when a pause begins.

        It grows with the latency, because more entries are added between the last apply cycle and the pause.
        """
        return SHORT_LOG_ENTRIES + round(CHANGES_PER_SECOND * self.cycle_seconds)

    def is_too_high(self, max_pause: float) -> bool:
        """Return True if the round trips alone exceed the allowed share of `max_pause` (seconds)."""
        return PAUSE_ROUND_TRIPS * self.round_trip > MAX_LATENCY_SHARE * max_pause

    def long_pause_hint(self, max_pause: float) -> str:
        """Return advice for the error about a pause that was too long, or "" if latency was not the cause."""
        if PAUSE_ROUND_TRIPS * self.round_trip < MAX_LATENCY_SHARE / 3 * max_pause:
            return ""
        return (
            f" The latency is high: {self}. Run the command nearer to the servers, or with a longer"
            " --max-pause."
        )

    @property
    def recommended_max_pause(self) -> float:
        """A value for max_pause, in seconds, of which the round trips take half."""
        return 2 * PAUSE_ROUND_TRIPS * self.round_trip

    def __str__(self) -> str:
        return (
            f"a round trip takes {self.round_trip * 1000:.0f} ms, and a write pause needs"
            f" {PAUSE_ROUND_TRIPS} of them, {PAUSE_ROUND_TRIPS * self.round_trip:.2f} s"
        )


def _measure_round_trip(connection: Connection) -> float:
    began = monotonic()
    connection.execute("SELECT")
    return monotonic() - began
