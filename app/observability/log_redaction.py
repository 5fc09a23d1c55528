"""Addresses that hold a secret, made fit to be logged."""

import logging
import re

# The webhook's caller proves itself by the address alone.
_WEBHOOK = re.compile(r"""(/webhooks/yclients/)[^\s?"']+""")


def without_secret(text: str) -> str:
    """The text with the webhook's secret left out of every address in it."""
    return _WEBHOOK.sub(r"\1…", text)


# gunicorn writes what it cannot read of a request behind a quotation mark, as Python shows it.
_UNREADABLE = re.compile(
    r"""^(Invalid request|Ignored premature|Closing connection)([^'"]*)['"].*""", re.DOTALL
)
_FAILED = re.compile(r"^(Error handling request)\s.*", re.DOTALL)
_QUERY = re.compile(r"""\?[^\s"']+""")


def hide_requests(record: logging.LogRecord) -> bool:
    """A filter for gunicorn's loggers: what clients send, well-formed or not, may hold a name or a phone."""
    line = without_secret(record.getMessage())
    for pattern, fit in ((_UNREADABLE, r"\1\2…"), (_FAILED, r"\1 …"), (_QUERY, "?…")):
        line = pattern.sub(fit, line)
    record.msg, record.args = line, ()
    return True


def hide_secrets(record: logging.LogRecord) -> bool:
    """A filter for loggers that write addresses."""
    line = record.getMessage()
    if (fit := without_secret(line)) != line:
        record.msg, record.args = fit, ()
    return True
