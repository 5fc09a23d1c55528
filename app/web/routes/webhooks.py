"""Webhook for YClients' change events: `POST /webhooks/yclients/<secret>`."""

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

MAX_BODY_BYTES = 1024 * 1024  # an event of a record has a few thousand bytes

EVENTS = Counter("frontdesk_webhook_events", "Events received from YClients.", ["resource", "outcome"])


def webhook_routes(desk: Frontdesk, secret: SecretStr) -> Blueprint:
    """Return the webhook route. The secret in the path is the authentication."""
    routes = Blueprint("webhooks", __name__, url_prefix="/webhooks")

    @routes.post("/yclients/<path:given>")
    def yclients(given: str) -> ResponseReturnValue:
        """Store one event and return its outcome.

        An event that Frontdesk does not use gets 200 as well: YClients repeats an event that fails.
        """
        if not hmac.compare_digest(given.encode(errors="replace"), secret.get_secret_value().encode()):
            abort(401, "The secret in the URL is wrong.")
        company_id = None
        try:
            event = WebhookEvent.parse(_body())
            company_id = event.company_id
            outcome = handle_event(desk, event)
        except HTTPException:
            raise
        except InvalidInputError as error:
            return _error(error, 400)
        except Exception as error:  # noqa: BLE001 - Flask's own handler would log the URL with the secret
            report(error, "webhook", company_id, component="web")
            return _error(to_frontdesk_error(error), 503)  # so that YClients sends the event again
        resource = event.resource if event.resource in KINDS_BY_RESOURCE else "other"
        EVENTS.labels(resource, outcome.value).inc()
        log.info("Webhook of company %s: %s %s", company_id, resource, outcome.value)
        return jsonify(outcome=outcome.value)

    return routes


def _error(error: FrontdeskError, status: int) -> ResponseReturnValue:
    return jsonify(error={"code": error.code, "message": error.message}), status


def _body() -> Any:
    """Parse the body as JSON, whatever its Content-Type.

    Raises InvalidInputError if it is not JSON, and RequestEntityTooLarge (413) above MAX_BODY_BYTES.
    """
    request.max_content_length = MAX_BODY_BYTES
    try:
        return json.loads(request.get_data(cache=False))
    except (ValueError, RecursionError):
        raise InvalidInputError("The body is not JSON.") from None
