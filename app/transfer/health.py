"""How a move is, judged: for the health API, the status page and the metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.observability import metrics
from app.observability.severity import Level
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import Status
from app.transfer.verification.divergence_monitor import Recent

LONG_LAG = 60.0  # seconds; a relay that runs needs less than one
LONG_REPLAY = 1.0  # seconds
_IN_MOTION = (Stage.RELAYING, Stage.CUT_OVER)  # the standby is kept current


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a move, and what to do. Nothing personal."""

    level: Level
    what: str
    advice: str


@dataclass(frozen=True)
class TransferHealth:
    """A move, what was found on it, and what comparing reads has brought of late."""

    status: Status
    recent: Recent
    at: datetime
    findings: list[Finding]

    @property
    def level(self) -> Level:
        """The worst of the findings."""
        return max((finding.level for finding in self.findings), default=Level.HEALTHY)

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
            else {"at": _moment(status.verified_at), "equal": status.verified_equal},
            "reasons": [finding.what for finding in self.findings],
            "next": status.next,
            "last_check": _moment(self.at),
        }


def judge(status: Status, recent: Recent) -> TransferHealth:
    """What is wrong, the worst first."""
    findings = sorted(_findings(status, recent), key=lambda finding: -finding.level)
    return TransferHealth(status, recent, datetime.now(UTC), findings)


def _findings(status: Status, recent: Recent) -> Iterator[Finding]:
    if status.stage is Stage.BROKEN:
        yield Finding(Level.CRITICAL, "The rows of the two sides contradict each other.", status.next)
    if recent.is_alarming:
        yield Finding(
            Level.CRITICAL,
            f"{recent.differed} of {recent.compared} compared reads differed in five minutes.",
            "Run `frontdesk transfer verify`, then `frontdesk transfer repair`; do not cut over before.",
        )
    if status.verified_equal is False:
        yield Finding(
            Level.CRITICAL,
            "The last verification found differences.",
            "Run `frontdesk transfer repair`, then `frontdesk transfer verify`.",
        )
    for obstacle in status.in_the_way:
        # Of a side that cannot be reached, host and user stand behind the colon: they are for the log.
        what = obstacle.partition(": ")[0] + "." if status.stage is Stage.UNKNOWN else obstacle
        yield Finding(Level.WARNING, what, "See `frontdesk transfer status`.")
    if status.stage in _IN_MOTION and status.lag is not None and status.lag > LONG_LAG:
        yield Finding(
            Level.WARNING,
            f"The standby is {status.lag:.0f} s behind.",
            "See whether `frontdesk transfer relay` runs.",
        )
    if status.replay_seconds is not None and status.replay_seconds > LONG_REPLAY:
        yield Finding(
            Level.WARNING,
            f"The last round of the relay took {status.replay_seconds:.1f} s.",
            "A cutover right now would pause writes as long: wait for a quieter moment.",
        )


def publish(status: Status) -> None:
    """Bring the gauges up to date."""
    metrics.TRANSFER_KEYS.set(status.marks or 0)
    metrics.TRANSFER_LAG.set(status.lag or 0)
    metrics.TRANSFER_REPLAY.set(status.replay_seconds or 0)
    if status.verified_at is not None:
        metrics.TRANSFER_VERIFIED.set(status.verified_at.timestamp())
        metrics.TRANSFER_EQUAL.set(bool(status.verified_equal))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
