"""gunicorn in this process, for `frontdesk up`; deployments run `gunicorn wsgi:app`."""

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

HOST = "127.0.0.1"  # the health API is open to whoever reaches it, so only this machine does
BIND_TIMEOUT_SECONDS = 2.0  # seconds; the workers of a server that was killed leave its port within one


class PortError(FrontdeskError):
    """The port cannot be used."""


def bind_port(port: int) -> socket.socket:
    """Take the port at once and hold it: whoever connects before `serve` waits. Raises PortError."""
    deadline = time.monotonic() + BIND_TIMEOUT_SECONDS
    while True:
        door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
            door.listen()
        except PermissionError:
            door.close()
            raise PortError(f"Port {port} needs special rights; choose another with --port.") from None
        except OSError:
            door.close()
            if time.monotonic() > deadline:
                raise PortError(
                    f"Port {port} {_describe_port_user(port)}, or choose another with --port."
                ) from None
            time.sleep(0.1)
        else:
            return door


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
        return "is served by a Frontdesk that runs already. Stop that one"
    return "is busy: another program listens there. Stop it"


def serve(app: Callable[[], Flask], listener: socket.socket, when_ready: Callable[[], None]) -> NoReturn:
    """Serve until SIGINT (at once), SIGTERM or SIGHUP (gracefully); leaves the process with SystemExit.

    The master is this very process: workers notice within a second when it is killed, and leave the port.
    They are forks of it and leave it with SystemExit too, so nothing may stand after this call.
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
        self.cfg.set("workers", 1)  # several share their metrics, which takes preparation before this
        self.cfg.set("preload_app", True)  # a mistake in it is seen here, not in a worker
        self.cfg.set("when_ready", self._ready)

    def load(self) -> Flask:
        return self._app()

    def _ready(self, arbiter: Any) -> None:
        # gunicorn reloads on SIGHUP; here it means that the terminal was closed.
        signal.signal(signal.SIGHUP, lambda *_: arbiter.SIG_QUEUE.put_nowait(signal.SIGTERM))
        self._when_ready()
