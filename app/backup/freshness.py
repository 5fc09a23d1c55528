"""Whether the backups are recent enough, in words: for the status page and `frontdesk doctor`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.backup.run_log import Backups
from app.config import Settings


@dataclass(frozen=True)
class Age:
    """How old the last one is, and how old it may be. `at` is None where there never was one."""

    what: str  # "backup" or "drill"
    at: datetime | None
    limit: timedelta
    advice: str
    is_needed: bool  # in production

    @property
    def is_missed(self) -> bool:
        """Whether there never was one where there should be."""
        return self.at is None and self.is_needed

    @property
    def is_overdue(self) -> bool:
        """Whether it was, and too long ago."""
        return self.at is not None and datetime.now(UTC) - self.at > self.limit

    def __str__(self) -> str:
        if self.at is None:
            return f"there is no good {self.what} yet"
        hours = int((datetime.now(UTC) - self.at).total_seconds() // 3600)
        age = f"{hours} h" if hours < 48 else f"{hours // 24} days"
        limit = int(self.limit.total_seconds() // 3600)
        most = f"{limit} h" if limit < 72 else f"{limit // 24} days"
        return f"the last good {self.what} is {age} old, at most {most} are right"


def ages(backups: Backups, settings: Settings) -> list[Age]:
    """The age of the newest backup that nothing is known against, and of the last good drill."""
    return [
        Age(
            "backup",
            backups.taken_at,
            timedelta(hours=settings.backup_max_hours),
            "Run `frontdesk backup create`, and see why its timer did not.",
            settings.is_production,
        ),
        Age(
            "drill",
            backups.drilled_at,
            timedelta(days=settings.backup_drill_max_days),
            "Run `frontdesk backup drill`: it proves that the newest backup can be restored.",
            settings.is_production,
        ),
    ]
