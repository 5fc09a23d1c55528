"""Hooks around every request: a request id for log lines, response headers, and errors as JSON."""

import random
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app.observability import operation_context, sentry
from app.observability.failure_reports import report

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REQUEST_ID_HEADER = "X-Request-ID"
# The form of ids that proxies generate. The id is logged, so it must not be able to contain a phone number.
_PROXY_REQUEST_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9-]{16,64}")


class Application(Flask):
    """Flask application that bypasses Sentry's middleware for probes.

    The middleware wraps `__call__` and adds half the time of a probe, for traces that are not kept. Failures
    in probes are still reported.
    """

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle one WSGI request."""
        if environ.get("PATH_INFO", "").startswith(sentry.UNTRACED_PATHS):
            return self.wsgi_app(environ, start_response)
        return super().__call__(environ, start_response)


def register_request_hooks(app: Flask) -> None:
    """Give each request an id, set common response headers, and answer errors as JSON."""
    app.before_request(_assign_request_id)
    app.after_request(_set_response_headers)
    app.teardown_request(_clear_request_id)
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(Exception, _handle_exception)


def _assign_request_id() -> None:
    from_proxy = request.environ.get("HTTP_X_REQUEST_ID", "")
    # The id need not be secret. os.urandom would release the GIL and wait for it again.
    generated = f"{random.getrandbits(128):032x}"
    operation_context.request_id.set(from_proxy if _PROXY_REQUEST_ID.fullmatch(from_proxy) else generated)


def _set_response_headers(response: Response) -> Response:
    """Add the request id, and forbid caching: all responses are outdated after seconds."""
    response.headers[REQUEST_ID_HEADER] = operation_context.request_id.get() or ""
    response.headers["Cache-Control"] = "no-store"
    return response


def _clear_request_id(error: BaseException | None) -> None:
    """Remove the request id, so that later log lines of this thread do not carry it."""
    operation_context.request_id.set(None)


def _handle_http_exception(error: HTTPException) -> Response:
    """Return an HTTP error as JSON, with its headers (for example `Allow` of a 405)."""
    response = Response(headers=error.get_headers())
    response.status_code = error.code or 500
    code = error.name.lower().replace(" ", "_")
    response.set_data(jsonify(error={"code": code, "message": error.description}).data)
    response.mimetype = "application/json"
    return response


def _handle_exception(error: Exception) -> ResponseReturnValue:
    """Report an unexpected error and return it as JSON: 503 if a retry can succeed, else 500.

    Flask's own handler would log the URL and the error's text, which may contain personal data.
    """
    failure = report(error, request.endpoint or "unknown", component="web")
    answer = {"code": failure.code, "message": failure.message}
    return jsonify(error=answer), 503 if failure.retryable else 500
