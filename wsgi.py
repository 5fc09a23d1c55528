"""Entry point of `gunicorn wsgi:app`: the web application, configured by environment variables."""

from gunicorn.errors import AppImportError

from app import create_app
from app.errors import FrontdeskError


class CannotStart(AppImportError, RuntimeError):
    """Start-up error that gunicorn prints without a traceback.

    gunicorn does so for AppImportError in a worker, and for RuntimeError under --preload.
    """


try:
    app = create_app()
except FrontdeskError as error:
    raise CannotStart(error.message) from None
