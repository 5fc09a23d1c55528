"""The health of a transfer, for the health API, the status page and the metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.observability import metrics
from app.observability.severity import Severity
from app.text import format_utc
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import Status
from app.transfer.verification.divergence_monitor import RecentComparisons

LONG_LAG_SECONDS = 60.0  # a running relay keeps the lag below one second
LONG_CYCLE_SECONDS = 1.0  # a cutover pauses writes about as long as an apply cycle takes
_FOLLOWING_STAGES = (Stage.RELAYING, Stage.CUT_OVER)  # stages in which the standby follows the live side


@dataclass(frozen=True)
class TransferProblem:
    """A problem of a transfer and its remedy. The texts contain no personal data."""

    level: Severity
    message: str
    remedy: str


@dataclass(frozen=True)
class TransferHealth:
    """The status of a transfer, its problems, and the recent comparisons of reads on both sides."""

    status: Status
    recent: RecentComparisons
    at: datetime
    problems: list[TransferProblem]  # the most severe first

    @property
    def level(self) -> Severity:
        """The highest severity of the problems, or HEALTHY."""
        return max((problem.level for problem in self.problems), default=Severity.HEALTHY)

    def as_dict(self) -> dict[str, Any]:
        """Return the health for JSON output, without the level. Durations are in seconds, times in UTC."""
        status = self.status
        return {
            "stage": status.stage.value,
            "live": status.live,
            "lag": {"keys": status.marks, "seconds": _rounded(status.lag)},
            "replay_seconds": _rounded(status.replay_seconds),
            "divergences": self.recent.as_dict(),
            "last_verification": None
            if status.verified_at is None
            else {"at": format_utc(status.verified_at), "equal": status.verified_equal},
            "reasons": [problem.message for problem in self.problems],
            "next": status.next,
            "last_check": format_utc(self.at),
        }


def assess_health(status: Status, recent: RecentComparisons) -> TransferHealth:
    """Return the health of a transfer with its problems, the most severe first."""
    problems = sorted(_find_problems(status, recent), key=lambda problem: -problem.level)
    return TransferHealth(status, recent, datetime.now(UTC), problems)


def _find_problems(status: Status, recent: RecentComparisons) -> Iterator[TransferProblem]:
    if status.stage is Stage.BROKEN:
        yield TransferProblem(
            Severity.CRITICAL, "The state rows of the two sides contradict each other.", status.next
        )
    if recent.is_alarming:
        yield TransferProblem(
            Severity.CRITICAL,
            f"{recent.differed} of {recent.compared} compared reads differed in the last five minutes.",
            "Run `frontdesk transfer verify`, then `frontdesk transfer repair`, before a cutover.",
        )
    if status.verified_equal is False:
        yield TransferProblem(
            Severity.CRITICAL,
            "The last verification found differences.",
            "Run `frontdesk transfer repair`, then `frontdesk transfer verify`.",
        )
    for problem in status.in_the_way:
        # If a side cannot be reached, the text after the colon contains host and user, which belong in the
        # log only.
        message = problem.partition(": ")[0] + "." if status.stage is Stage.UNKNOWN else problem
        yield TransferProblem(Severity.WARNING, message, "See `frontdesk transfer status`.")
    if status.stage in _FOLLOWING_STAGES and status.lag is not None and status.lag > LONG_LAG_SECONDS:
        yield TransferProblem(
            Severity.WARNING,
            f"The standby is {status.lag:.0f} s behind.",
            "Check that `frontdesk transfer relay` runs.",
        )
    if status.replay_seconds is not None and status.replay_seconds > LONG_CYCLE_SECONDS:
        yield TransferProblem(
            Severity.WARNING,
            f"The last apply cycle of the relay took {status.replay_seconds:.1f} s.",
            "Do not cut over now, because it would pause writes as long: wait until there are fewer writes.",
        )


def update_metrics(status: Status) -> None:
    """Set the transfer's gauges from the status."""
    metrics.TRANSFER_WAITING_KEYS.set(status.marks or 0)
    metrics.TRANSFER_LAG_SECONDS.set(status.lag or 0)
    metrics.TRANSFER_REPLAY_SECONDS.set(status.replay_seconds or 0)
    if status.verified_at is not None:
        metrics.TRANSFER_VERIFIED_TIMESTAMP.set(status.verified_at.timestamp())
        metrics.TRANSFER_VERIFIED_EQUAL.set(bool(status.verified_equal))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
