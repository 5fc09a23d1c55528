"""gunicorn in the current process, for `frontdesk up`. Deployments run `gunicorn wsgi:app`."""

import http.client
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

import gunicorn.app.base
from flask import Flask

from app.config import PROJECT_ROOT
from app.errors import FrontdeskError

HOST = "127.0.0.1"  # without tokens the routes are open, so they must be reachable from this machine only
BIND_TIMEOUT_SECONDS = 2.0  # workers of a killed server release its port within a second


class PortError(FrontdeskError):
    """The port cannot be used."""


def bind_port(port: int) -> socket.socket:
    """Return a socket that listens on the port. Clients that connect before `serve` runs are queued.

    Raises PortError if the port is in use or needs special rights.
    """
    deadline = time.monotonic() + BIND_TIMEOUT_SECONDS
    while True:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except PermissionError:
            listener.close()
            raise PortError(f"Port {port} needs special rights; choose another with --port.") from None
        except OSError:
            listener.close()
            if time.monotonic() > deadline:
                raise PortError(
                    f"Port {port} {_describe_port_user(port)}, or choose another with --port."
                ) from None
            time.sleep(0.1)
        else:
            return listener


def _describe_port_user(port: int) -> str:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/health")
        frontdesk = b'"uptime"' in connection.getresponse().read(1000)
    except (OSError, http.client.HTTPException):
        frontdesk = False
    finally:
        connection.close()
    if frontdesk:
        return "is used by a running Frontdesk. Stop it"
    return "is used by another program. Stop it"


def serve(app: Callable[[], Flask], listener: socket.socket, when_ready: Callable[[], None]) -> NoReturn:
    """Serve until SIGINT (stops at once), SIGTERM or SIGHUP (stop gracefully), then raise SystemExit.

    The current process is gunicorn's master. If it is killed, the workers exit within a second and release
    the port. Workers are forks of it and raise SystemExit too, so no code may follow this call.

    Args:
        app: Returns the application; called once, before workers are forked.
        listener: Socket from `bind_port`.
        when_ready: Called when gunicorn accepts requests.
    """
    _Server(app, listener, when_ready).run()
    raise SystemExit


class _Server(gunicorn.app.base.Application):  # type: ignore[misc] # gunicorn has no types
    def __init__(
        self, app: Callable[[], Flask], listener: socket.socket, when_ready: Callable[[], None]
    ) -> None:
        self._app = app
        self._listener = listener
        self._when_ready = when_ready
        super().__init__()

    def load_config(self) -> None:
        self.load_config_from_file(str(PROJECT_ROOT / "gunicorn.conf.py"))
        self.cfg.set("bind", f"fd://{self._listener.detach()}")
        self.cfg.set("workers", 1)  # several workers would need a metrics directory before the imports
        self.cfg.set("preload_app", True)  # raises errors of the application here and not in a worker
        self.cfg.set("when_ready", self._ready)

    def load(self) -> Flask:
        return self._app()

    def _ready(self, arbiter: Any) -> None:
        # gunicorn reloads on SIGHUP. Under `frontdesk up` it means that the terminal was closed.
        signal.signal(signal.SIGHUP, lambda *_: arbiter.SIG_QUEUE.put_nowait(signal.SIGTERM))
        self._when_ready()
