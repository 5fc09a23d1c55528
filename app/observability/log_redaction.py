"""Removal of secrets and client input from log lines."""

import logging
import re

# The URL of the webhook contains the secret that authenticates YClients.
_WEBHOOK = re.compile(r"""(/webhooks/yclients/)[^\s?"']+""")


def redact_webhook_secret(text: str) -> str:
    """Return the text without the webhook's secret."""
    return _WEBHOOK.sub(r"\1…", text)


# After a quotation mark, gunicorn logs the part of a request that it cannot parse.
_INVALID_REQUEST = re.compile(
    r"""^(Invalid request|Ignored premature|Closing connection)([^'"]*)['"].*""", re.DOTALL
)
_FAILED_REQUEST = re.compile(r"^(Error handling request)\s.*", re.DOTALL)
_QUERY_STRING = re.compile(r"""\?[^\s"']+""")


def request_redaction_filter(record: logging.LogRecord) -> bool:
    """Remove client input from gunicorn's log lines, because it may contain names or phone numbers."""
    line = redact_webhook_secret(record.getMessage())
    for pattern, text in ((_INVALID_REQUEST, r"\1\2…"), (_FAILED_REQUEST, r"\1 …"), (_QUERY_STRING, "?…")):
        line = pattern.sub(text, line)
    record.msg, record.args = line, ()
    return True


def secret_redaction_filter(record: logging.LogRecord) -> bool:
    """Remove the webhook's secret from log lines that contain URLs."""
    line = record.getMessage()
    if (redacted := redact_webhook_secret(line)) != line:
        record.msg, record.args = redacted, ()
    return True
