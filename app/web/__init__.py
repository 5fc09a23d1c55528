"""The web application: health API, status page, webhook and the session store of the WhatsApp worker."""

from flask import Flask

from app.config import Settings
from app.frontdesk import Frontdesk
from app.observability.setup import start_observability
from app.web.health.metrics_routes import metrics_routes
from app.web.health.openapi import openapi_routes
from app.web.health.routes import Health
from app.web.routes.webhooks import webhook_routes
from app.web.routes.whatsapp import whatsapp_routes
from app.web.serving.load_shedding import shed_load
from app.web.serving.request_hooks import Application, register_request_hooks
from app.web.status_page.page import StatusPage


def create_app(desk: Frontdesk | None = None) -> Flask:
    """Return the WSGI application. Without `desk`, create a Frontdesk from the environment's settings.

    No connection is opened yet, so a server may fork afterwards. Raises ConfigurationError if a setting is
    invalid.
    """
    if desk is None:
        settings = Settings.load()
        start_observability(settings)
        desk = Frontdesk(settings)
    app = Application(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # Flask's default JSON provider has it
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
    register_request_hooks(app)
    app.wsgi_app = shed_load(app.wsgi_app)  # type: ignore[method-assign,assignment] # as Flask documents it
    return app
