"""Around every request: an id for its log lines, and an answer when something goes wrong."""

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
# What proxies make. It goes into the log, so it must not be able to hold a phone.
_MADE_BY_A_MACHINE = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9-]{16,64}")


class Application(Flask):
    """Flask, with Sentry kept out of the way of probes.

    Its middleware stands around `__call__` and costs half as much again as a whole probe, for traces that
    are not kept. What fails in a probe is reported all the same.
    """

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        if environ.get("PATH_INFO", "").startswith(sentry.UNTRACED_PATHS):
            return self.wsgi_app(environ, start_response)
        return super().__call__(environ, start_response)


def register_request_hooks(app: Flask) -> None:
    """Name every request, answer every error as JSON."""
    app.before_request(_assign_request_id)
    app.after_request(_set_response_headers)
    app.teardown_request(_clear_request_id)
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(Exception, _handle_exception)


def _assign_request_id() -> None:
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    # It need not be secret. os.urandom would let go of the interpreter's lock and queue for it again.
    ours = f"{random.getrandbits(128):032x}"
    operation_context.request_id.set(given if _MADE_BY_A_MACHINE.fullmatch(given) else ours)


def _set_response_headers(response: Response) -> Response:
    """Show the name; and no answer here is true for long."""
    response.headers[REQUEST_ID_HEADER] = operation_context.request_id.get() or ""
    response.headers["Cache-Control"] = "no-store"
    return response


def _clear_request_id(error: BaseException | None) -> None:
    """What the thread does next belongs to no request."""
    operation_context.request_id.set(None)


def _handle_http_exception(error: HTTPException) -> Response:
    """The caller's, with the headers that belong to it (`Allow` of a 405, say)."""
    response = Response(headers=error.get_headers())
    response.status_code = error.code or 500
    code = error.name.lower().replace(" ", "_")
    response.set_data(jsonify(error={"code": code, "message": error.description}).data)
    response.mimetype = "application/json"
    return response


def _handle_exception(error: Exception) -> ResponseReturnValue:
    """Ours. Flask itself would log the address, which may hold anything, and the error's text."""
    failure = report(error, request.endpoint or "unknown", component="web")
    answer = {"code": failure.code, "message": failure.message}
    return jsonify(error=answer), 503 if failure.retryable else 500
