"""The service over HTTP."""

from flask import Flask

from app.config import Settings
from app.frontdesk import Frontdesk
from app.observability.start import start
from app.web.admission import admit
from app.web.health import Health
from app.web.metrics import metrics_routes
from app.web.openapi import openapi_routes
from app.web.requests import Application, watch_requests
from app.web.status import StatusPage
from app.web.webhooks import webhook_routes
from app.web.whatsapp import whatsapp_routes


def create_app(desk: Frontdesk | None = None) -> Flask:
    """The WSGI application; without a desk the environment configures one.

    It connects to nothing yet, so a server may fork after it. Raises ConfigurationError.
    """
    if desk is None:
        settings = Settings.load()
        start(settings)
        desk = Frontdesk(settings)
    app = Application(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider, which this is
    app.extensions["desk"] = desk
    health = app.extensions["health"] = Health(desk)
    app.register_blueprint(health.blueprint())
    status = app.extensions["status"] = StatusPage(desk, health)
    app.register_blueprint(status.blueprint())
    app.register_blueprint(whatsapp_routes(desk))
    if (secret := desk.settings.yclients_webhook_secret) is not None:
        app.register_blueprint(webhook_routes(desk, secret))
    app.register_blueprint(metrics_routes(desk.settings))
    app.register_blueprint(openapi_routes())
    watch_requests(app)
    app.wsgi_app = admit(app.wsgi_app)  # type: ignore[method-assign,assignment] # Flask's own way
    return app
