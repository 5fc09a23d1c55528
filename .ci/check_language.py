"""Find phrases that plain technical English avoids, in docstrings, comments, messages and documents.

python .ci/check_language.py [PATH ...]

Each finding is printed with its reason and an alternative. A line that needs such a phrase is listed in
language_exceptions.txt, as `path: the line without its indentation`; an entry without a finding is an error.
A line with the comment `check-language: data` is test data.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = Path(__file__).resolve()  # it holds every phrase
EXCEPTIONS = Path(__file__).with_name("language_exceptions.txt")
DATA = "check-language: data"
PROSE = (".md", ".html", ".mako", ".yml", ".service", ".timer", ".sql", ".mjs")


class Pattern(NamedTuple):
    """A phrase to avoid. `starts` limits it to the first words of a docstring or comment."""

    regex: str
    reason: str
    instead: str
    starts: bool = False


PEOPLE = "programs are not people"
RIDDLE = "a sentence begins with its noun or verb"
VERBS = "the field has a verb for it"
METAPHOR = "a metaphor where a term exists"
ARCHAIC = "not plain English"

PATTERNS = [
    Pattern(r"who|whom|whoever", PEOPLE, "name the client, caller, session, process or request"),
    Pattern(r"(no|some|any|every)body|no one|someone|anyone|everyone|strangers?", PEOPLE, "name the program"),
    Pattern(r"those (who|that)|one that|of none", RIDDLE, "the noun"),
    Pattern(
        r"(what|whatever|those|such|that|whether|as|be it)\b", RIDDLE, "the noun, or an imperative verb", True
    ),
    Pattern(r"(is|are|was|were|be) none", "a plain negative", "is not a ..., is invalid, is missing"),
    Pattern(r"of (ours|theirs)", "a riddle", "name the owner: this process, the caller, other programs"),
    Pattern(r"tells?|told|telling", VERBS, "report, return, show, distinguish"),
    Pattern(r"heeds?|heeded|heeding", VERBS, "handle, read, apply"),
    Pattern(r"(say|says|said|saying) so", VERBS, "report, raise, state"),
    Pattern(r"(let|lets|letting) go", VERBS, "release"),
    Pattern(r"(send|sends|sent|sending) away", VERBS, "cancel, reject"),
    Pattern(r"(bring|brings|brought|bringing) in", VERBS, "import, insert"),
    Pattern(r"(give|gives|gave|given|giving) up", VERBS, "stop, abort, time out"),
    Pattern(r"(look|looks|looked|looking) (at|whether|how|again|once)", VERBS, "read, query, check, inspect"),
    Pattern(r"(land|lands|landed)", VERBS, "insert, merge, commit, store"),
    Pattern(
        r"anew|for ever|in vain|under way|be it", ARCHAIC, "again, permanently, without result, in progress"
    ),
    Pattern(
        r"doors?|lanes?|crowds?|moods?|vaults?|patience|last words|stretch(es)?", METAPHOR, "see the glossary"
    ),
    Pattern(r"(stand|stands|stood|standing|wait|waits|waiting) in line", METAPHOR, "queue"),
    Pattern(r"in the way", METAPHOR, "a problem, a blocker, a conflict"),
]


class Finding(NamedTuple):
    path: str
    line: int
    phrase: str
    pattern: Pattern


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield the line, the text and whether it starts a docstring or comment."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from ((number, line, False) for number, line in enumerate(content.splitlines(), 1))
        return
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(content))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node, clean=False) is not None
    }
    previous_comment = 0
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            yield line, token.string.lstrip("#: "), line != previous_comment + 1
            previous_comment = line
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)):
            for number, text in enumerate(token.string.splitlines()):
                yield line + number, text, number == 0 and line in docstrings


def findings(path: Path) -> Iterator[Finding]:
    """Yield each phrase to avoid in a file."""
    name = str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
    for line, text, starts in texts(path):
        for pattern in PATTERNS:
            if pattern.starts and not starts:
                continue
            before = r"^\W*" if pattern.starts else r"(?<![\w`'/.-])"
            found = re.search(rf"{before}({pattern.regex})(?![\w`'/-])", text, re.IGNORECASE)
            if found:
                yield Finding(name, line, found.group(1), pattern)


def tracked() -> list[Path]:
    """Return the tracked files that contain texts."""
    output = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    paths = [PROJECT / name for name in output.stdout.split("\0") if name]
    return [each for each in paths if each.suffix in (".py", *PROSE) and each.exists() and each != SCRIPT]


def main(names: list[str]) -> int:
    paths = [Path(name).resolve() for name in names] or tracked()
    exceptions = set(EXCEPTIONS.read_text(encoding="utf-8").splitlines())
    used, count = set(), 0
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        for finding in findings(path):
            entry = f"{finding.path}: {lines[finding.line - 1].strip()}"
            if DATA in lines[finding.line - 1]:
                continue
            if entry in exceptions:
                used.add(entry)
                continue
            count += 1
            print(
                f"{finding.path}:{finding.line}: {finding.phrase!r}: {finding.pattern.reason};"
                f" write: {finding.pattern.instead}"
            )
    unused = set() if names else exceptions - used
    for entry in sorted(unused):
        print(f"{EXCEPTIONS.name}: no finding for {entry!r}")
    if count or unused:
        print(f"{count} phrases to replace, {len(unused)} exceptions to remove", file=sys.stderr)
    return int(bool(count or unused))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
