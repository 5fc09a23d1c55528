"""Health of WhatsApp sessions: severity, reasons and remedies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from app.config import Settings
from app.observability.severity import Severity
from app.repositories.whatsapp_all_companies import SessionState
from app.text import format_utc
from app.whatsapp.session_store import KeyTypeStatistics

CONFLICT_WARNING_PERIOD = timedelta(hours=1)
MAX_LISTED = 20  # salons in one document


@dataclass(frozen=True)
class Thresholds:
    """Limits at which a salon's session becomes a warning or critical. `silent_…` are in hours."""

    expired_warning: int
    expired_critical: int
    expired_percent: int
    min_sessions: int
    silent_warning: int
    silent_critical: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "Thresholds":
        """Return the thresholds of WHATSAPP_EXPIRED_WARNING and the related settings."""
        return cls(**{name: getattr(settings, f"whatsapp_{name}") for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class SessionProblem:
    """One problem of a session, with its remedy."""

    level: Severity
    reason: str
    remedy: str


@dataclass(frozen=True)
class SalonHealth:
    """Health of the session of one salon. A salon without credentials and keys is not paired."""

    state: SessionState
    keys: Mapping[str, KeyTypeStatistics]
    last_write: datetime | None
    problems: tuple[SessionProblem, ...]

    @property
    def company_id(self) -> int:
        return self.state.company_id

    @property
    def is_paired(self) -> bool:
        return self.state.paired_at is not None or bool(self.keys)

    @cached_property
    def level(self) -> Severity:
        return max((problem.level for problem in self.problems), default=Severity.HEALTHY)

    @property
    def total(self) -> int:
        return sum(statistics.total for statistics in self.keys.values())

    @property
    def expired(self) -> int:
        return sum(statistics.expired for statistics in self.keys.values())

    @property
    def sessions(self) -> int:
        return self.keys["session"].total if "session" in self.keys else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the salon."""
        return {
            "company_id": self.company_id,
            "status": str(self.level),
            "auth_records": int(self.state.paired_at is not None),
            "total_keys": self.total,
            "expired_keys": self.expired,
            "keys_by_type": _as_dict(self.keys),
            "last_write": self.last_write and format_utc(self.last_write),
            "worker": self.state.owner,
            "reasons": [problem.reason for problem in self.problems],
            "recommendation": " ".join(problem.remedy for problem in self.problems) or "Nothing to do.",
        }


def assess_session(
    state: SessionState,
    keys: Mapping[str, KeyTypeStatistics],
    last_write: datetime | None,
    limits: Thresholds,
    now: datetime,
) -> SalonHealth:
    """Return the health of a salon's session, judged by the thresholds."""
    unassessed = SalonHealth(state, keys, last_write, ())
    return SalonHealth(state, keys, last_write, tuple(_find_problems(unassessed, limits, now)))


def _find_problems(salon: SalonHealth, limits: Thresholds, now: datetime) -> Iterable[SessionProblem]:
    """Yield the problems of a session, the most severe first."""
    company_id, state, expired = salon.company_id, salon.state, salon.expired
    clean = f"Run `frontdesk whatsapp cleanup --company {company_id}`."
    if state.paired_at is None:
        advice = "Pair the salon's phone with its worker"
        if salon.keys:
            advice += f", or delete its keys with `frontdesk whatsapp forget --company {company_id}`"
        yield SessionProblem(Severity.CRITICAL, "no credentials", f"{advice}.")
    if expired >= limits.expired_critical:
        yield SessionProblem(Severity.CRITICAL, f"{expired} expired keys", clean)
    last = salon.last_write or state.paired_at
    silent_hours = (now - last).total_seconds() / 3600 if last is not None else 0.0
    if silent_hours >= limits.silent_warning:
        level = Severity.CRITICAL if silent_hours >= limits.silent_critical else Severity.WARNING
        advice = "Check that the worker runs and is connected to WhatsApp."
        yield SessionProblem(level, f"no key written for {int(silent_hours)} hours", advice)
    if limits.expired_warning <= expired < limits.expired_critical:
        yield SessionProblem(Severity.WARNING, f"{expired} expired keys", clean)
    if expired * 100 > salon.total * limits.expired_percent:
        yield SessionProblem(Severity.WARNING, f"{expired} of {salon.total} keys are expired", clean)
    if salon.sessions < limits.min_sessions <= state.most_sessions:
        reason = f"{salon.sessions} sessions, down from {state.most_sessions}"
        advice = "Conversations were lost: find the process that deletes sessions, and read the worker's log."
        yield SessionProblem(Severity.WARNING, reason, advice)
    if state.contested_at is not None and now - state.contested_at < CONFLICT_WARNING_PERIOD:
        reason = f"two workers hold the session: {state.owner} and {state.contested_by}"
        yield SessionProblem(Severity.WARNING, reason, "Stop one of them.")


@dataclass(frozen=True)
class WhatsAppHealth:
    """Health of the sessions of all salons; its level is the worst level of the paired salons."""

    checked_at: datetime
    thresholds: Thresholds
    salons: Mapping[int, SalonHealth]

    @cached_property
    def paired(self) -> list[SalonHealth]:
        """The paired salons, the worst first."""
        paired = [salon for salon in self.salons.values() if salon.is_paired]
        return sorted(paired, key=lambda salon: (-salon.level, salon.company_id))

    @property
    def level(self) -> Severity:
        return max((salon.level for salon in self.paired), default=Severity.CRITICAL)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document. It lists the MAX_LISTED worst salons that are not healthy."""
        paired = self.paired
        unhealthy = [salon for salon in paired if salon.level is not Severity.HEALTHY]
        by_type: dict[str, KeyTypeStatistics] = {}
        for salon in paired:
            for key_type, statistics in salon.keys.items():
                sums = by_type.get(key_type, KeyTypeStatistics(0, 0))
                by_type[key_type] = KeyTypeStatistics(
                    sums.total + statistics.total, sums.expired + statistics.expired
                )
        last_write = max((salon.last_write for salon in paired if salon.last_write), default=None)
        return {
            "status": str(self.level),
            "auth_records": sum(salon.state.paired_at is not None for salon in paired),
            "total_keys": sum(statistics.total for statistics in by_type.values()),
            "expired_keys": sum(statistics.expired for statistics in by_type.values()),
            **self.times(),
            "keys_by_type": _as_dict(dict(sorted(by_type.items()))),
            "last_write": last_write and format_utc(last_write),
            "salons": {str(level): sum(s.level is level for s in paired) for level in Severity},
            "attention": [_brief(salon) for salon in unhealthy[:MAX_LISTED]],
            "recommendation": self._recommendation(unhealthy),
        }

    def salon_as_dict(self, company_id: int) -> dict[str, Any]:
        """Return the JSON document of one salon, with thresholds and time of the check."""
        return {**self.salons[company_id].as_dict(), **self.times()}

    def times(self) -> dict[str, Any]:
        """Return the time of the check and the thresholds."""
        limits = self.thresholds
        thresholds = {"warning": limits.expired_warning, "critical": limits.expired_critical}
        return {"thresholds": thresholds, "last_check": format_utc(self.checked_at)}

    def _recommendation(self, unhealthy: list[SalonHealth]) -> str:
        if not self.paired:
            return "No salon is paired: start a WhatsApp worker."
        if not unhealthy:
            return "Nothing to do."
        worst = unhealthy[0]
        return f"Company {worst.company_id}: {worst.as_dict()['recommendation']}"


def _brief(salon: SalonHealth) -> dict[str, Any]:
    names = ("company_id", "status", "reasons", "recommendation")
    document = salon.as_dict()
    return {name: document[name] for name in names}


def _as_dict(keys: Mapping[str, KeyTypeStatistics]) -> dict[str, dict[str, int]]:
    return {name: {"total": count.total, "expired": count.expired} for name, count in keys.items()}
