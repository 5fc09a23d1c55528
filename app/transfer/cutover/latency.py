"""How far away the servers are, and what that means for a pause."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Self

import psycopg

# Trips to a server and back, one after the other.
PAUSE_ROUND_TRIPS = 5  # close and look; fetch; apply; hand over; open
CYCLE_ROUND_TRIPS = 6  # of a round of the relay
MAX_LATENCY_SHARE = (
    0.75  # of the longest pause that the trips may take: the rest is for what is done on the servers
)
MEASUREMENTS = 3

SHORT_LOG_ENTRIES = 2_000  # marks: what is replayed in a moment
CHANGES_PER_SECOND = 8_000  # marks a second that writers at full speed may make


@dataclass(frozen=True)
class Latency:
    """`round_trip`: seconds until the server that is farther away has answered, when nothing else holds it up."""

    round_trip: float

    @classmethod
    def measure(cls, connections: Iterable[psycopg.Connection[Any]]) -> Self:
        """Measure it."""
        return cls(max(min(_measure_round_trip(each) for _ in range(MEASUREMENTS)) for each in connections))

    @property
    def cycle_seconds(self) -> float:
        """Seconds that a round of the relay is on the way."""
        return CYCLE_ROUND_TRIPS * self.round_trip

    @property
    def short_log_entries(self) -> int:
        """Marks that may be left for a pause: more gather until it begins where each trip takes longer."""
        return SHORT_LOG_ENTRIES + round(CHANGES_PER_SECOND * self.cycle_seconds)

    def is_too_high(self, max_pause: float) -> bool:
        """Whether a pause is not to be had so short."""
        return PAUSE_ROUND_TRIPS * self.round_trip > MAX_LATENCY_SHARE * max_pause

    def long_pause_hint(self, max_pause: float) -> str:
        """What to add where a pause was too long; nothing where little of it was spent on the way."""
        if PAUSE_ROUND_TRIPS * self.round_trip < MAX_LATENCY_SHARE / 3 * max_pause:
            return ""
        return f" It is far: {self}; run it nearer to the servers, or with a longer --max-pause."

    @property
    def recommended_max_pause(self) -> float:
        """A longest pause that leaves as much time for work as for the way."""
        return 2 * PAUSE_ROUND_TRIPS * self.round_trip

    def __str__(self) -> str:
        """For people: what it costs."""
        return (
            f"a server answers after {self.round_trip * 1000:.0f} ms, and writes wait for {PAUSE_ROUND_TRIPS} answers,"
            f" {PAUSE_ROUND_TRIPS * self.round_trip:.2f} s"
        )


def _measure_round_trip(connection: psycopg.Connection[Any]) -> float:
    began = monotonic()
    connection.execute("SELECT")
    return monotonic() - began
