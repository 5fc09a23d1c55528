"""Addresses that hold a secret, made fit to be logged."""

import logging
import re

# The webhook's caller proves itself by the address alone.
_WEBHOOK = re.compile(r"""(/webhooks/yclients/)[^\s?"']+""")


def redact_webhook_secret(text: str) -> str:
    """The text with the webhook's secret left out of every address in it."""
    return _WEBHOOK.sub(r"\1…", text)


# gunicorn writes what it cannot read of a request behind a quotation mark, as Python shows it.
_INVALID_REQUEST = re.compile(
    r"""^(Invalid request|Ignored premature|Closing connection)([^'"]*)['"].*""", re.DOTALL
)
_FAILED_REQUEST = re.compile(r"^(Error handling request)\s.*", re.DOTALL)
_QUERY_STRING = re.compile(r"""\?[^\s"']+""")


def request_redaction_filter(record: logging.LogRecord) -> bool:
    """A filter for gunicorn's loggers: what clients send, well-formed or not, may hold a name or a phone."""
    line = redact_webhook_secret(record.getMessage())
    for pattern, fit in ((_INVALID_REQUEST, r"\1\2…"), (_FAILED_REQUEST, r"\1 …"), (_QUERY_STRING, "?…")):
        line = pattern.sub(fit, line)
    record.msg, record.args = line, ()
    return True


def secret_redaction_filter(record: logging.LogRecord) -> bool:
    """A filter for loggers that write addresses."""
    line = record.getMessage()
    if (fit := redact_webhook_secret(line)) != line:
        record.msg, record.args = fit, ()
    return True
