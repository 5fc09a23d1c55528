"""How a move is, judged: for the health API, the status page and the metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.observability import metrics
from app.observability.severity import Severity
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import Status
from app.transfer.verification.divergence_monitor import RecentComparisons

LONG_LAG_SECONDS = 60.0  # seconds; a relay that runs needs less than one
LONG_CYCLE_SECONDS = 1.0  # seconds
_FOLLOWING_STAGES = (Stage.RELAYING, Stage.CUT_OVER)  # the standby is kept current


@dataclass(frozen=True)
class TransferProblem:
    """One thing that is wrong with a move, and what to do. Nothing personal."""

    level: Severity
    message: str
    remedy: str


@dataclass(frozen=True)
class TransferHealth:
    """A move, what was found on it, and what comparing reads has brought of late."""

    status: Status
    recent: RecentComparisons
    at: datetime
    problems: list[TransferProblem]

    @property
    def level(self) -> Severity:
        """The worst of the findings."""
        return max((finding.level for finding in self.problems), default=Severity.HEALTHY)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the level; seconds, and moments in UTC."""
        status = self.status
        return {
            "stage": status.stage.value,
            "live": status.live,
            "lag": {"keys": status.marks, "seconds": _rounded(status.lag)},
            "replay_seconds": _rounded(status.replay_seconds),
            "divergences": self.recent.as_dict(),
            "last_verification": None
            if status.verified_at is None
            else {"at": _format_utc(status.verified_at), "equal": status.verified_equal},
            "reasons": [finding.message for finding in self.problems],
            "next": status.next,
            "last_check": _format_utc(self.at),
        }


def assess_health(status: Status, recent: RecentComparisons) -> TransferHealth:
    """What is wrong, the worst first."""
    findings = sorted(_find_problems(status, recent), key=lambda finding: -finding.level)
    return TransferHealth(status, recent, datetime.now(UTC), findings)


def _find_problems(status: Status, recent: RecentComparisons) -> Iterator[TransferProblem]:
    if status.stage is Stage.BROKEN:
        yield TransferProblem(
            Severity.CRITICAL, "The rows of the two sides contradict each other.", status.next
        )
    if recent.is_alarming:
        yield TransferProblem(
            Severity.CRITICAL,
            f"{recent.differed} of {recent.compared} compared reads differed in five minutes.",
            "Run `frontdesk transfer verify`, then `frontdesk transfer repair`; do not cut over before.",
        )
    if status.verified_equal is False:
        yield TransferProblem(
            Severity.CRITICAL,
            "The last verification found differences.",
            "Run `frontdesk transfer repair`, then `frontdesk transfer verify`.",
        )
    for obstacle in status.in_the_way:
        # Of a side that cannot be reached, host and user stand behind the colon: they are for the log.
        what = obstacle.partition(": ")[0] + "." if status.stage is Stage.UNKNOWN else obstacle
        yield TransferProblem(Severity.WARNING, what, "See `frontdesk transfer status`.")
    if status.stage in _FOLLOWING_STAGES and status.lag is not None and status.lag > LONG_LAG_SECONDS:
        yield TransferProblem(
            Severity.WARNING,
            f"The standby is {status.lag:.0f} s behind.",
            "See whether `frontdesk transfer relay` runs.",
        )
    if status.replay_seconds is not None and status.replay_seconds > LONG_CYCLE_SECONDS:
        yield TransferProblem(
            Severity.WARNING,
            f"The last round of the relay took {status.replay_seconds:.1f} s.",
            "A cutover right now would pause writes as long: wait for a quieter moment.",
        )


def update_metrics(status: Status) -> None:
    """Bring the gauges up to date."""
    metrics.TRANSFER_WAITING_KEYS.set(status.marks or 0)
    metrics.TRANSFER_LAG_SECONDS.set(status.lag or 0)
    metrics.TRANSFER_REPLAY_SECONDS.set(status.replay_seconds or 0)
    if status.verified_at is not None:
        metrics.TRANSFER_VERIFIED_TIMESTAMP.set(status.verified_at.timestamp())
        metrics.TRANSFER_VERIFIED_EQUAL.set(bool(status.verified_equal))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _format_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
