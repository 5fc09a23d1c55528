"""Fixtures that install real Baileys with npm, run it in Node.js processes, and serve Frontdesk for them."""

import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from app import Frontdesk, Settings
from app.web import create_app

HERE = Path(__file__).parent
ADAPTER = HERE.parents[2] / "app/whatsapp/baileys/useFrontdeskAuthState.mjs"
TOKEN = "the worker's token"


class PeerError(Exception):
    """An error that a command of peer.mjs has thrown."""

    def __init__(self, error: dict[str, Any]) -> None:
        """`error` is the JSON form of the JavaScript error."""
        self.code, self.status = error.get("code"), error.get("status")
        super().__init__(f"{error['name']}: {error['message']}")


class Peer:
    """A Node.js process that acts as one WhatsApp device. `jid` is the device's address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._start()
        self._session: dict[str, Any] = {}

    def open(self, url: str, company_id: int) -> Any:
        """Open the session of a company, creating credentials if it has none."""
        self.jid = f"7968000000{company_id}@s.whatsapp.net"
        self._session = {"url": url, "company": company_id, "token": TOKEN}
        return self("open", **self._session)

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command of peer.mjs and return its result. Raises PeerError if it throws."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the peer process has exited"
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["ok"]

    def restart(self) -> None:
        """Kill the process, start another, and load the session from Frontdesk."""
        self.kill()
        self._process = self._start()
        self("open", **self._session)

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()

    def _start(self) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        command = ["node", "peer.mjs"]
        return subprocess.Popen(command, cwd=self._folder, stdin=pipe, stdout=pipe, text=True)


@pytest.fixture(scope="session")
def peer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with peer.mjs, the adapter and Baileys, laid out like a worker."""
    _fetch_baileys()
    folder = tmp_path_factory.mktemp("peer")
    shutil.copy(HERE / "peer.mjs", folder)
    shutil.copy(ADAPTER, folder)
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    return folder


def _fetch_baileys() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed: real Baileys cannot run here")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version[1:].partition(".")[0]) < 20:
        pytest.skip(f"Baileys needs Node.js 20 or newer; installed: {version}")
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest worker may be installing
        fetched = HERE / "node_modules/.package-lock.json"
        locked = HERE / "package-lock.json"
        if fetched.exists() and fetched.stat().st_mtime >= locked.stat().st_mtime:
            return
        npm = ["npm", "ci", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=30000"]
        try:
            # `make test-clock` shifts the clock with LD_PRELOAD; the registry's certificate would be invalid.
            real_clock = os.environ | {"LD_PRELOAD": ""}
            result = subprocess.run(
                npm, cwd=HERE, env=real_clock, capture_output=True, text=True, check=False, timeout=180
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not fetch Baileys within three minutes")
        if result.returncode:
            reason = next(
                (line for line in result.stderr.splitlines() if "npm error" in line), "no reason given"
            )
            pytest.skip(f"npm could not fetch Baileys: {reason.removeprefix('npm error').strip()}")


class Handler(WSGIRequestHandler):
    """A request handler that keeps connections open, as gunicorn does, and does not log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve Frontdesk over HTTP; yield its address."""
    with Frontdesk(settings) as desk:
        server = make_server("127.0.0.1", 0, create_app(desk), threaded=True, request_handler=Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture(scope="session")
def peers(peer_folder: Path) -> Iterator[list[Peer]]:
    """Start three processes for all tests, because loading Baileys takes a second."""
    peers = [Peer(peer_folder) for _ in range(3)]
    yield peers
    for peer in peers:
        peer.kill()
