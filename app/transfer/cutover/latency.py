"""How far away the servers are, and what that means for a pause."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Self

import psycopg

# Trips to a server and back, one after the other.
PAUSE_TRIPS = 5  # close and look; fetch; apply; hand over; open
ROUND_TRIPS = 6  # of a round of the relay
SHARE = 0.75  # of the longest pause that the trips may take: the rest is for what is done on the servers
LOOKS = 3

SHORT_LOG = 2_000  # marks: what is replayed in a moment
GATHERS = 8_000  # marks a second that writers at full speed may make


@dataclass(frozen=True)
class Distance:
    """`trip`: seconds until the server that is farther away has answered, when nothing else holds it up."""

    trip: float

    @classmethod
    def of(cls, connections: Iterable[psycopg.Connection[Any]]) -> Self:
        """Measure it."""
        return cls(max(min(_seconds(each) for _ in range(LOOKS)) for each in connections))

    @property
    def of_a_round(self) -> float:
        """Seconds that a round of the relay is on the way."""
        return ROUND_TRIPS * self.trip

    @property
    def short_log(self) -> int:
        """Marks that may be left for a pause: more gather until it begins where each trip takes longer."""
        return SHORT_LOG + round(GATHERS * self.of_a_round)

    def is_too_long(self, max_pause: float) -> bool:
        """Whether a pause is not to be had so short."""
        return PAUSE_TRIPS * self.trip > SHARE * max_pause

    def blame(self, max_pause: float) -> str:
        """What to add where a pause was too long; nothing where little of it was spent on the way."""
        if PAUSE_TRIPS * self.trip < SHARE / 3 * max_pause:
            return ""
        return f" It is far: {self}; run it nearer to the servers, or with a longer --max-pause."

    @property
    def enough(self) -> float:
        """A longest pause that leaves as much time for work as for the way."""
        return 2 * PAUSE_TRIPS * self.trip

    def __str__(self) -> str:
        """For people: what it costs."""
        return (
            f"a server answers after {self.trip * 1000:.0f} ms, and writes wait for {PAUSE_TRIPS} answers,"
            f" {PAUSE_TRIPS * self.trip:.2f} s"
        )


def _seconds(connection: psycopg.Connection[Any]) -> float:
    began = monotonic()
    connection.execute("SELECT")
    return monotonic() - began
