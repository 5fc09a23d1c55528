"""SQL statements in `.sql` files beside the Python modules that run them.

A file holds one script, or several queries, each after a line `-- query: name`. Comments of a file do not
reach the server, except those in the body of a function.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import LiteralString

_QUERY_LINE = re.compile(r"^-- query: (.+)$", re.MULTILINE)
_COMMENT_LINES = re.compile(r"^--.*\n", re.MULTILINE)


@cache
def read_script(package: str, name: str) -> LiteralString:
    """Return the statements of a file. `package` is the `__package__` of the module beside the file."""
    return _without_comments(files(package).joinpath(name).read_text(encoding="utf-8"))


@cache
def read_queries(package: str, name: str) -> Mapping[str, LiteralString]:
    """Return the queries of a file by name, in the order of the file. The text before the first is a header.

    `package` is the `__package__` of the module beside the file.
    """
    _, *parts = _QUERY_LINE.split(files(package).joinpath(name).read_text(encoding="utf-8"))
    return {query: _without_comments(text) for query, text in zip(parts[::2], parts[1::2], strict=True)}


def _without_comments(text: str) -> LiteralString:
    return _COMMENT_LINES.sub("", text).strip()
