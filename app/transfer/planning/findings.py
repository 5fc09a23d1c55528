"""What a plan has found: one thing each, with what to do about it."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

LEGACY, PRIMARY, BOTH = "legacy", "primary", "both"


@dataclass(frozen=True)
class PlanFinding:
    """One thing that stands in the way of a move, or is good to know before it.

    `side`: where it is (legacy, primary or both). `advice` is SQL where SQL mends it.
    """

    kind: str
    name: str
    side: str
    problem: str
    advice: str
    in_the_way: bool = True


class Exclusions:
    """What the operator leaves out by name; `auth.*` names a whole schema."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.names: list[str] = []
        self._used: set[str] = set()

    def add_earlier_exclusions(self, names: Collection[str]) -> None:
        """What was left out before; if it is gone by now, so much the better."""
        self.patterns += tuple(names)
        self._used.update(names)

    def excludes(self, name: str) -> bool:
        """Whether it is left out; remembers its name."""
        matching = [each for each in self.patterns if each == name or fnmatchcase(name, each)]
        if matching and name not in self.names:
            self.names.append(name)
        self._used.update(matching)
        return bool(matching)

    @property
    def unused_patterns(self) -> list[str]:
        """Patterns that nothing has matched: most likely a slip of the pen."""
        return [each for each in self.patterns if each not in self._used]
