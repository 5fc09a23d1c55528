"""Age of the newest backup and drill against their limits, for the status page and `frontdesk doctor`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.backup.run_log import BackupSummary
from app.config import Settings


@dataclass(frozen=True)
class Freshness:
    """Age and age limit of the last backup or drill. `last_at` is absent (None) if there never was one."""

    name: str  # "backup" or "drill"
    last_at: datetime | None
    max_age: timedelta
    remedy: str
    is_required: bool  # True in production

    @property
    def is_missing(self) -> bool:
        """True if there never was one, although one is required."""
        return self.last_at is None and self.is_required

    @property
    def is_overdue(self) -> bool:
        """True if the last one is older than the limit."""
        return self.last_at is not None and datetime.now(UTC) - self.last_at > self.max_age

    def __str__(self) -> str:
        if self.last_at is None:
            return f"there is no good {self.name} yet"
        hours = int((datetime.now(UTC) - self.last_at).total_seconds() // 3600)
        age = f"{hours} h" if hours < 48 else f"{hours // 24} days"
        limit = int(self.max_age.total_seconds() // 3600)
        limit_text = f"{limit} h" if limit < 72 else f"{limit // 24} days"
        return f"the last good {self.name} is {age} old; the limit is {limit_text}"


def check_freshness(backups: BackupSummary, settings: Settings) -> list[Freshness]:
    """Return the freshness of the newest backup that no check found bad, and of the last good drill."""
    return [
        Freshness(
            "backup",
            backups.taken_at,
            timedelta(hours=settings.backup_max_hours),
            "Run `frontdesk backup create`, and check why its timer did not run it.",
            settings.is_production,
        ),
        Freshness(
            "drill",
            backups.drilled_at,
            timedelta(days=settings.backup_drill_max_days),
            "Run `frontdesk backup drill`: it proves that the newest backup can be restored.",
            settings.is_production,
        ),
    ]
