"""The service over HTTP."""

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from app.config import Settings
from app.frontdesk import Frontdesk
from app.observability import sentry
from app.web.health import Health
from app.web.webhooks import webhook_routes
from app.web.whatsapp import whatsapp_routes


def create_app(desk: Frontdesk | None = None) -> Flask:
    """The WSGI application; without a desk the environment configures one.

    It connects to nothing yet, so a server may fork after it. Raises ConfigurationError.
    """
    if desk is None:
        settings = Settings.load()
        sentry.initialise(settings)
        desk = Frontdesk(settings)
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider, which this is
    app.extensions["desk"] = desk
    app.extensions["health"] = Health(desk)
    app.register_blueprint(app.extensions["health"].blueprint())
    app.register_blueprint(whatsapp_routes(desk))
    if (secret := desk.settings.yclients_webhook_secret) is not None:
        app.register_blueprint(webhook_routes(desk, secret))
    app.register_error_handler(HTTPException, _error)
    app.after_request(_not_stored)
    return app


def _error(error: HTTPException) -> Response:
    """Errors as JSON, with the headers that belong to them (`Allow` of a 405, say)."""
    response = Response(headers=error.get_headers())
    response.status_code = error.code or 500
    code = error.name.lower().replace(" ", "_")
    response.set_data(jsonify(error={"code": code, "message": error.description}).data)
    response.mimetype = "application/json"
    return response


def _not_stored(response: Response) -> Response:
    """No answer here is true for long."""
    response.headers["Cache-Control"] = "no-store"
    return response
