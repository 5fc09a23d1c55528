"""The findings of a plan: each one problem or notice, with its remedy."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

LEGACY, PRIMARY, BOTH = "legacy", "primary", "both"


@dataclass(frozen=True)
class PlanFinding:
    """One problem that blocks a transfer, or one notice about it."""

    kind: str
    name: str
    side: str  # legacy, primary or both
    problem: str
    advice: str  # the remedy, as SQL where SQL can apply it
    in_the_way: bool = True  # True for a problem that blocks the transfer, False for a notice


class Exclusions:
    """The objects that the operator leaves out, by name or pattern; `auth.*` matches a whole schema."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.names: list[str] = []
        self._used: set[str] = set()

    def add_earlier_exclusions(self, names: Collection[str]) -> None:
        """Add names that an earlier run left out. They need not match: the objects may no longer exist."""
        self.patterns += tuple(names)
        self._used.update(names)

    def excludes(self, name: str) -> bool:
        """Return True if a pattern matches the name, and add the name to `names`."""
        matching = [pattern for pattern in self.patterns if pattern == name or fnmatchcase(name, pattern)]
        if matching and name not in self.names:
            self.names.append(name)
        self._used.update(matching)
        return bool(matching)

    @property
    def unused_patterns(self) -> list[str]:
        """Return the patterns that matched no object, which are probably typing errors."""
        return [pattern for pattern in self.patterns if pattern not in self._used]
