"""The session store over HTTP, for the WhatsApp worker."""

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

# Bytes. All pre-keys of a new pairing are 200 KB; the state of a very large account is a few MB.
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_DRAINED_BYTES = 128 * 1024 * 1024
WORKER_HEADER = "Frontdesk-Worker"  # the header that names the worker which writes

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
    """The routes under /whatsapp/{company}."""
    if desk.settings.is_production and desk.settings.whatsapp_encryption_keys is None:
        log.warning("WHATSAPP_ENCRYPTION_KEYS is not set: the salons' private keys are stored as they are.")
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
        """Nobody gets in without the token; in production nobody gets in where there is none."""
        request.max_content_length = MAX_BODY_BYTES
        expected = self._desk.settings.whatsapp_api_token
        if expected is None:
            if self._desk.settings.is_production:
                return _error(403, "forbidden", "WHATSAPP_API_TOKEN is not set: no worker is let in.")
        elif not has_token(expected):
            response = _error(401, "unauthorized", "Send WHATSAPP_API_TOKEN as a Bearer token.")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        g.worker = request.headers.get(WORKER_HEADER)
        return None

    def get_creds(self, company: str) -> ResponseReturnValue:
        """`{"creds", "version"}`; 404 with the code `no_credentials` for a salon that is not paired."""
        found = self._store(company).get_creds().unwrap()
        if found is None:
            return _error(404, "no_credentials", "This company has no WhatsApp credentials yet.")
        response = jsonify(creds=found.creds, version=found.version)
        response.set_etag(str(found.version))
        return response

    def put_creds(self, company: str) -> ResponseReturnValue:
        """`{"version"}`, the new one; 412 where If-Match is not the version that is stored."""
        given = request.headers.get("If-Match")
        if given is None:
            message = "Send If-Match: the version that you read, or * for the first credentials."
            return _error(428, "precondition_required", message)
        number = re.fullmatch(r'\*|"?([0-9]{1,19})"?', given.strip())
        if number is None:
            raise InvalidInputError(fields={"If-Match": "is neither a version nor *"})
        version = int(number[1]) if number[1] else None
        new = self._store(company).set_creds(_body(), version, g.worker).unwrap()
        response = jsonify(version=new)
        response.set_etag(str(new))
        return response

    def get_keys(self, company: str) -> ResponseReturnValue:
        """`{"type", "ids"}` → `{id: value}`."""
        wanted = _body()
        if not isinstance(wanted, dict) or wanted.keys() != {"type", "ids"}:
            raise InvalidInputError('The body is not like {"type": …, "ids": […]}.')
        return jsonify(self._store(company).get_keys(wanted["type"], wanted["ids"]).unwrap())

    def set_keys(self, company: str) -> ResponseReturnValue:
        """`{type: {id: value or null}}` → 204, all or nothing."""
        self._store(company).set_keys(_body(), g.worker).unwrap()
        return "", 204

    def renew_lease(self, company: str) -> ResponseReturnValue:
        """The worker of the header takes the session."""
        return jsonify(asdict(self._store(company).take_lease(_worker()).unwrap()))

    def release_lease(self, company: str) -> ResponseReturnValue:
        """The worker of the header lets it go."""
        self._store(company).release_lease(_worker()).unwrap()
        return "", 204

    def delete_session(self, company: str) -> ResponseReturnValue:
        """Log out."""
        self._store(company).delete_session().unwrap()
        return "", 204

    def _store(self, company: str) -> SessionStore:
        number = re.fullmatch("[0-9]{1,19}", company)
        if number is None:
            raise InvalidInputError(fields={"company": "must be a positive integer"})
        return self._desk.company(int(company)).whatsapp


def _body() -> Any:
    text = request.get_data(cache=False)
    if len(text) >= MAX_BODY_BYTES:  # a body of unknown length is cut off there without a word
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
    # A client that is still sending would see a broken connection in place of the answer.
    stream, left = request.environ["wsgi.input"], request.content_length or 0
    if request.environ.get("wsgi.input_terminated"):  # the server knows where a body of unknown length ends
        left = left or MAX_DRAINED_BYTES
    left = min(left, MAX_DRAINED_BYTES)
    while left > 0 and (chunk := stream.read(min(left, 65536))):
        left -= len(chunk)
    return _error(413, "too_large", f"The body is larger than {MAX_BODY_BYTES // 1024 // 1024} MB.")


def _error(status: int, code: str, message: str, retryable: bool = False) -> Response:
    response = jsonify(error={"code": code, "message": message, "retryable": retryable})
    response.status_code = status
    return response
