"""Summary of an import: counts by kind, and problems by file and row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.schemas.schema import RowKey
from app.text import to_printable_line
from app.yclients.importing.row_reader import BrokenFileError
from app.yclients.summary import KindSummary


@dataclass(frozen=True)
class ImportProblem:
    """A rejected row, or a warning about a row that was stored without its invalid fields.

    `position` is the index of the row in the file, from 0. `reasons` by field do not contain values.
    """

    path: Path
    kind: str
    position: int
    key: RowKey | None
    is_rejected: bool
    reasons: Mapping[str, str]

    @property
    def outcome(self) -> str:
        return "rejected" if self.is_rejected else "warning"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the problem."""
        return {
            "file": to_printable_line(str(self.path)),
            "kind": self.kind,
            "position": self.position,
            "key": [to_printable_line(part) if isinstance(part, str) else part for part in self.key or ()]
            or None,
            "outcome": self.outcome,
            "errors": {to_printable_line(name): reason for name, reason in self.reasons.items()},
        }

    def __str__(self) -> str:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return to_printable_line(f"{self.path}, row {self.position}: {self.outcome}: {reasons}")


@dataclass
class ImportSummary:
    """Summary of one import."""

    company_id: int
    is_dry_run: bool = False
    made_company: bool = False  # the company was unknown and was created with default settings
    kinds: dict[str, KindSummary] = field(default_factory=dict)
    broken: list[BrokenFileError] = field(default_factory=list)  # files that were not read completely
    problems: list[ImportProblem] = field(default_factory=list)  # at most MAX_KEPT of each outcome

    @property
    def has_changes(self) -> bool:
        """True if any row was written, or would be written without dry run."""
        return self.made_company or any(kind.inserted or kind.updated for kind in self.kinds.values())

    @property
    def succeeded(self) -> bool:
        """True if every row of every file is stored."""
        return not self.broken and not any(kind.rejected for kind in self.kinds.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        return {
            "company_id": self.company_id,
            "dry_run": self.is_dry_run,
            "made_company": self.made_company,
            "changed": self.has_changes,
            "kinds": {name: kind.as_dict() for name, kind in self.kinds.items()},
            "broken_files": [
                {"file": to_printable_line(str(error.path)), "reason": error.reason} for error in self.broken
            ],
            "findings": [problem.as_dict() for problem in self.problems],
        }
