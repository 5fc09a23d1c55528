"""What a cutover or a rollback has done, step by step."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from app.transfer.protocol.endpoints import SideName


@dataclass(frozen=True)
class Step:
    """One step, the seconds that it took, and what came of it."""

    name: str
    seconds: float
    detail: str = ""


OnStepDone = Callable[[Step], object]


@dataclass
class CutoverReport:
    """What was done to make a side live. `pause`: seconds during which nobody could write."""

    live: SideName
    dry_run: bool
    steps: list[Step] = field(default_factory=list)
    pause: float | None = None
    was_live: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
