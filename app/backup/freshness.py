"""Whether the backups are recent enough, in words: for the status page and `frontdesk doctor`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.backup.run_log import BackupSummary
from app.config import Settings


@dataclass(frozen=True)
class Freshness:
    """How old the last one is, and how old it may be. `last_at` is None where there never was one."""

    name: str  # "backup" or "drill"
    last_at: datetime | None
    max_age: timedelta
    remedy: str
    is_required: bool  # in production

    @property
    def is_missing(self) -> bool:
        """Whether there never was one where there should be."""
        return self.last_at is None and self.is_required

    @property
    def is_overdue(self) -> bool:
        """Whether it was, and too long ago."""
        return self.last_at is not None and datetime.now(UTC) - self.last_at > self.max_age

    def __str__(self) -> str:
        if self.last_at is None:
            return f"there is no good {self.name} yet"
        hours = int((datetime.now(UTC) - self.last_at).total_seconds() // 3600)
        age = f"{hours} h" if hours < 48 else f"{hours // 24} days"
        limit = int(self.max_age.total_seconds() // 3600)
        most = f"{limit} h" if limit < 72 else f"{limit // 24} days"
        return f"the last good {self.name} is {age} old, at most {most} are right"


def check_freshness(backups: BackupSummary, settings: Settings) -> list[Freshness]:
    """The age of the newest backup that nothing is known against, and of the last good drill."""
    return [
        Freshness(
            "backup",
            backups.taken_at,
            timedelta(hours=settings.backup_max_hours),
            "Run `frontdesk backup create`, and see why its timer did not.",
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
