"""`gunicorn wsgi:app`: the service over HTTP, configured by the environment."""

from gunicorn.errors import AppImportError

from app import create_app
from app.errors import FrontdeskError


class CannotStart(AppImportError, RuntimeError):
    """What gunicorn prints as its text alone: the one kind in a worker, the other under --preload."""


try:
    app = create_app()
except FrontdeskError as error:
    raise CannotStart(error.message) from None
