"""HTTP routes of the session store, for the WhatsApp worker."""

import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from app.errors import FrontdeskError, InvalidInputError
from app.frontdesk import Frontdesk
from app.web.serving.tokens import has_token
from app.whatsapp import baileys_json
from app.whatsapp.errors import StaleCredentialsError
from app.whatsapp.session_store import SessionStore

log = logging.getLogger(__name__)

# All pre-keys of a new pairing are 200 KB; the state of a very large account is a few MB.
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_DRAINED_BYTES = 128 * 1024 * 1024  # read and discarded of a body that is too large
WORKER_HEADER = "Frontdesk-Worker"  # the name of the worker that sends the request

_STATUS = {
    "invalid": HTTPStatus.BAD_REQUEST,
    "unknown_company": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "timeout": HTTPStatus.SERVICE_UNAVAILABLE,
    "fenced": HTTPStatus.SERVICE_UNAVAILABLE,
}


def whatsapp_routes(desk: Frontdesk) -> Blueprint:
    """Return the routes under /whatsapp/{company}."""
    if desk.settings.is_production and desk.settings.whatsapp_encryption_keys is None:
        log.warning("WHATSAPP_ENCRYPTION_KEYS is not set: the salons' private keys are stored unencrypted.")
    return _Routes(desk).blueprint()


class _Routes:
    def __init__(self, desk: Frontdesk) -> None:
        self._desk = desk

    def blueprint(self) -> Blueprint:
        routes = Blueprint("whatsapp", __name__, url_prefix="/whatsapp/<company>")
        routes.before_request(self.authenticate)
        routes.register_error_handler(FrontdeskError, _failure)
        routes.register_error_handler(RequestEntityTooLarge, _too_large)
        rules: list[tuple[str, str, Callable[..., ResponseReturnValue]]] = [
            ("GET", "/creds", self.get_creds),
            ("PUT", "/creds", self.put_creds),
            ("POST", "/keys/get", self.get_keys),
            ("POST", "/keys/set", self.set_keys),
            ("PUT", "/lease", self.renew_lease),
            ("DELETE", "/lease", self.release_lease),
            ("DELETE", "", self.delete_session),
        ]
        for method, rule, view in rules:
            routes.add_url_rule(rule, view_func=view, methods=[method])
        return routes

    def authenticate(self) -> ResponseReturnValue | None:
        """Return an error response unless the request carries WHATSAPP_API_TOKEN.

        If the token is not set, all requests are accepted, but in production all are refused.
        """
        request.max_content_length = MAX_BODY_BYTES
        expected = self._desk.settings.whatsapp_api_token
        if expected is None:
            if self._desk.settings.is_production:
                return _error(403, "forbidden", "Set WHATSAPP_API_TOKEN: without it, workers are refused.")
        elif not has_token(expected):
            response = _error(401, "unauthorized", "Send WHATSAPP_API_TOKEN as a Bearer token.")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        g.worker = request.headers.get(WORKER_HEADER)
        return None

    def get_creds(self, company: str) -> ResponseReturnValue:
        """Return the credentials as `{"creds": …, "version": …}`.

        A salon that is not paired gets 404 with the code `no_credentials`.
        """
        stored = self._store(company).get_creds().unwrap()
        if stored is None:
            return _error(404, "no_credentials", "This company has no WhatsApp credentials yet.")
        response = jsonify(creds=stored.creds, version=stored.version)
        response.set_etag(str(stored.version))
        return response

    def put_creds(self, company: str) -> ResponseReturnValue:
        """Store the credentials and return the new version as `{"version": …}`.

        Answers 412 if If-Match is not the stored version, and 428 without If-Match.
        """
        if_match = request.headers.get("If-Match")
        if if_match is None:
            message = "Send If-Match: the version that you read, or * for the first credentials."
            return _error(428, "precondition_required", message)
        number = re.fullmatch(r'\*|"?([0-9]{1,19})"?', if_match.strip())
        if number is None:
            raise InvalidInputError(fields={"If-Match": "is neither a version nor *"})
        version = int(number[1]) if number[1] else None
        new = self._store(company).set_creds(_body(), version, g.worker).unwrap()
        response = jsonify(version=new)
        response.set_etag(str(new))
        return response

    def get_keys(self, company: str) -> ResponseReturnValue:
        """Return the keys that the body `{"type": …, "ids": […]}` names, as `{id: value}`."""
        query = _body()
        if not isinstance(query, dict) or query.keys() != {"type", "ids"}:
            raise InvalidInputError('Send a body of the form {"type": …, "ids": […]}.')
        return jsonify(self._store(company).get_keys(query["type"], query["ids"]).unwrap())

    def set_keys(self, company: str) -> ResponseReturnValue:
        """Store the keys of the body `{type: {id: value}}`, all or none; null deletes a key. Returns 204."""
        self._store(company).set_keys(_body(), g.worker).unwrap()
        return "", 204

    def renew_lease(self, company: str) -> ResponseReturnValue:
        """Take or renew the session's lease for the worker named in the header, and return the lease."""
        return jsonify(asdict(self._store(company).take_lease(_worker()).unwrap()))

    def release_lease(self, company: str) -> ResponseReturnValue:
        """Release the lease of the worker named in the header."""
        self._store(company).release_lease(_worker()).unwrap()
        return "", 204

    def delete_session(self, company: str) -> ResponseReturnValue:
        """Delete the session, that is, log out."""
        self._store(company).delete_session().unwrap()
        return "", 204

    def _store(self, company: str) -> SessionStore:
        number = re.fullmatch("[0-9]{1,19}", company)
        if number is None:
            raise InvalidInputError(fields={"company": "must be a positive integer"})
        return self._desk.company(int(company)).whatsapp


def _body() -> Any:
    text = request.get_data(cache=False)
    if len(text) >= MAX_BODY_BYTES:  # a body of unknown length is truncated there without an error
        raise RequestEntityTooLarge
    return baileys_json.parse_json(text)


def _worker() -> str:
    if g.worker is None:
        raise InvalidInputError(fields={WORKER_HEADER: "is required: the name of the worker"})
    name: str = g.worker
    return name


def _failure(error: FrontdeskError) -> Response:
    status = _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, StaleCredentialsError):
        status = HTTPStatus.PRECONDITION_FAILED
    response = _error(status, error.code, error.message, retryable=error.retryable)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


def _too_large(error: RequestEntityTooLarge) -> Response:
    # Read the rest of the body first: a client that is still sending would get a broken connection and
    # not the response.
    stream, left = request.environ["wsgi.input"], request.content_length or 0
    if request.environ.get("wsgi.input_terminated"):  # the server ends the stream of a body of unknown length
        left = left or MAX_DRAINED_BYTES
    left = min(left, MAX_DRAINED_BYTES)
    while left > 0 and (chunk := stream.read(min(left, 65536))):
        left -= len(chunk)
    return _error(413, "too_large", f"The body is larger than {MAX_BODY_BYTES // 1024 // 1024} MB.")


def _error(status: int, code: str, message: str, retryable: bool = False) -> Response:
    response = jsonify(error={"code": code, "message": message, "retryable": retryable})
    response.status_code = status
    return response
