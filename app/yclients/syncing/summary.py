"""What a sync did: counts by kind, what was wrong with which row, and what to know beside."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.yclients.ingest import RowProblem
from app.yclients.summary import MAX_KEPT, KindSummary


@dataclass
class SyncedKind(KindSummary):
    """What became of the rows of one kind. `deleted`: ours that YClients' complete list lacks, now marked."""

    deleted: int = 0


@dataclass
class SyncSummary:
    """The outcome of one sync; `changed_after`: of bookings, only those changed since then were read."""

    company_id: int
    mode: str
    is_dry_run: bool = False
    made_company: bool = False
    changed_after: datetime | None = None
    requests: int = 0
    seconds: float = 0.0
    kinds: dict[str, SyncedKind] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what is not as it should be, for people
    problems: list[tuple[str, RowProblem]] = field(
        default_factory=list
    )  # the first of them, each with its kind

    @property
    def has_changes(self) -> bool:
        """Whether any row was written (or would be, in a dry run)."""
        return self.made_company or any(
            kind.inserted or kind.updated or kind.deleted for kind in self.kinds.values()
        )

    @property
    def succeeded(self) -> bool:
        """Whether all that YClients has is here."""
        return not self.notes and not any(kind.rejected for kind in self.kinds.values())

    def add_problem(self, kind: str, problem: RowProblem) -> None:
        """Count a fault, and keep it if it is one of the first."""
        counts = self.kinds[kind]
        if problem.is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        if len(self.problems) < MAX_KEPT:
            self.problems.append((kind, problem))

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON has it."""
        return {
            "company_id": self.company_id,
            "mode": self.mode,
            "dry_run": self.is_dry_run,
            "made_company": self.made_company,
            "changed": self.has_changes,
            "changed_after": self.changed_after,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "kinds": {name: kind.as_dict() for name, kind in self.kinds.items()},
            "notes": self.notes,
            "faults": [
                {
                    "kind": kind,
                    "key": list(fault.key) if fault.key else None,
                    "outcome": "rejected" if fault.is_rejected else "warning",
                    "errors": dict(fault.reasons),
                }
                for kind, fault in self.problems
            ],
        }
