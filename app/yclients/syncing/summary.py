"""Summary of a sync: counts by kind, problems of rows, and notes."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.yclients.ingest import RowProblem
from app.yclients.summary import MAX_KEPT, KindSummary


@dataclass
class SyncedKind(KindSummary):
    """Counts of one kind. `deleted` is the number of rows that were marked as deleted."""

    deleted: int = 0


@dataclass
class SyncSummary:
    """Summary of one sync. Only bookings that changed after `changed_after` were read, or all (None)."""

    company_id: int
    mode: str
    is_dry_run: bool = False
    made_company: bool = False
    changed_after: datetime | None = None
    requests: int = 0
    seconds: float = 0.0
    kinds: dict[str, SyncedKind] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # incomplete results, as sentences for the operator
    problems: list[tuple[str, RowProblem]] = field(default_factory=list)  # (kind, problem), at most MAX_KEPT

    @property
    def has_changes(self) -> bool:
        """True if any row was written, or would be written without dry run."""
        return self.made_company or any(
            kind.inserted or kind.updated or kind.deleted for kind in self.kinds.values()
        )

    @property
    def succeeded(self) -> bool:
        """True if all rows of YClients are stored."""
        return not self.notes and not any(kind.rejected for kind in self.kinds.values())

    def add_problem(self, kind: str, problem: RowProblem) -> None:
        """Count a problem, and keep it if it is one of the first MAX_KEPT."""
        counts = self.kinds[kind]
        if problem.is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        if len(self.problems) < MAX_KEPT:
            self.problems.append((kind, problem))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
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
                    "key": list(problem.key) if problem.key else None,
                    "outcome": "rejected" if problem.is_rejected else "warning",
                    "errors": dict(problem.reasons),
                }
                for kind, problem in self.problems
            ],
        }
