"""Report of a cutover or rollback: the steps and their durations."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from app.transfer.protocol.endpoints import SideName


@dataclass(frozen=True)
class Step:
    """A finished step: its name, duration in seconds, and details of its result."""

    name: str
    seconds: float
    detail: str = ""


OnStepDone = Callable[[Step], object]


@dataclass
class CutoverReport:
    """Result of a cutover or rollback. `pause` is the duration of the write pause in seconds."""

    live: SideName
    dry_run: bool
    steps: list[Step] = field(default_factory=list)
    pause: float | None = None
    was_live: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that can be serialised to JSON."""
        return asdict(self)
