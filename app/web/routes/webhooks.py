"""Where YClients tells of changes: `POST /webhooks/yclients/<secret>`."""

import hmac
import json
import logging
from typing import Any

from flask import Blueprint, abort, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import Counter
from pydantic import SecretStr
from werkzeug.exceptions import HTTPException

from app.errors import FrontdeskError, InvalidInputError, to_frontdesk_error
from app.frontdesk import Frontdesk
from app.observability.failure_reports import report
from app.yclients.webhook import KINDS_BY_RESOURCE, WebhookEvent, handle_event

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024  # bytes; a record has a few thousand

EVENTS = Counter("frontdesk_webhook_events", "Events that YClients has sent.", ["resource", "outcome"])


def webhook_routes(desk: Frontdesk, secret: SecretStr) -> Blueprint:
    """The route; whoever knows the secret is YClients."""
    routes = Blueprint("webhooks", __name__, url_prefix="/webhooks")

    @routes.post("/yclients/<path:given>")
    def yclients(given: str) -> ResponseReturnValue:
        """Store one event. 200 also for what is of no use here: it would only be sent again."""
        if not hmac.compare_digest(given.encode(errors="replace"), secret.get_secret_value().encode()):
            abort(401, "The secret in the address is wrong.")
        company_id = None
        try:
            event = WebhookEvent.parse(_body())
            company_id = event.company_id
            outcome = handle_event(desk, event)
        except HTTPException:
            raise
        except InvalidInputError as error:
            return _error(error, 400)
        except Exception as error:  # noqa: BLE001 - the boundary; Flask's own would log the address and its secret
            report(error, "webhook", company_id, component="web")
            return _error(to_frontdesk_error(error), 503)  # to be sent again
        resource = event.resource if event.resource in KINDS_BY_RESOURCE else "other"
        EVENTS.labels(resource, outcome.value).inc()
        log.info("Webhook of company %s: %s %s", company_id, resource, outcome.value)
        return jsonify(outcome=outcome.value)

    return routes


def _error(error: FrontdeskError, status: int) -> ResponseReturnValue:
    return jsonify(error={"code": error.code, "message": error.message}), status


def _body() -> Any:
    """The JSON of the request, of whatever type it claims to be. Raises InvalidInputError; 413."""
    request.max_content_length = MAX_BODY_BYTES
    try:
        return json.loads(request.get_data(cache=False))
    except (ValueError, RecursionError):
        raise InvalidInputError("The body is not JSON.") from None
