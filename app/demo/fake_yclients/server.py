"""HTTP server of the fake YClients API: responses, paging, rate limits, faults and control endpoints."""

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server

from app.demo.fake_yclients.salon import FakeSalon, Payload
from app.yclients.api.rate_limit import RateLimit
from app.yclients.mapping.values import boolean

API = "/api/v1"
LIMITS = (RateLimit(5, 1.0), RateLimit(200, 60.0))
PARTNER_TOKEN, USER_TOKEN = "demo-partner", "demo-user"
MAX_CLIENTS_PER_PAGE, MAX_RECORDS_PER_PAGE = 200, 300


@dataclass
class Fault:
    """A fault to inject into the next `times` responses to requests whose path contains `path`.

    `kind` is one of:
        status: an error response with `status`
        slow: the regular response after `seconds`
        garbage: a response that is not JSON
        cut: a response that ends in the middle of the JSON
        unsuccessful: status 200 with `success: false`
        empty: no rows

    `retry_after` adds a Retry-After header, in seconds.
    """

    kind: str
    path: str = ""
    times: int = 1
    status: int = 500
    seconds: float = 1.0
    retry_after: int | None = None


class FakeYClients:
    """A fake API for one salon, kept in memory. It logs the accepted requests and counts the refused ones."""

    def __init__(self, salon: FakeSalon, limits: Sequence[RateLimit] = LIMITS) -> None:
        self.salon = salon
        self.request_log: list[str] = []  # method and path of each accepted request
        self.rate_limited = 0  # number of requests refused because of the rate limits
        self.faults: list[Fault] = []
        self._limits = limits
        self._request_times: deque[float] = deque(maxlen=max(limit.count for limit in limits))
        self._lock = threading.Lock()
        self.app = self._application()

    def _application(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.before_request(self._check_request)
        app.register_error_handler(HTTPException, lambda error: error_response(error.code or 500, error.name))
        salon, add = self.salon, app.add_url_rule
        add(f"{API}/company/<int:company_id>", view_func=self._company)
        add(f"{API}/company/<int:company_id>/<collection>/", view_func=self._whole_list)
        add(f"{API}/company/<int:company_id>/clients/search", view_func=self._clients, methods=["POST"])
        add(f"{API}/records/<int:company_id>", view_func=self._records)
        add(f"{API}/schedule/<int:company_id>/<int:staff_id>/<first>/<last>", view_func=self._schedule)

        @app.post("/control/<collection>/<int:row_id>")
        def change(collection: str, row_id: int) -> ResponseReturnValue:
            if collection not in salon.collections:
                raise NotFound
            return jsonify(salon.put(collection, row_id, **request.get_json()))

        @app.delete("/control/<collection>/<int:row_id>")
        def delete(collection: str, row_id: int) -> ResponseReturnValue:
            if row_id not in salon.collections.get(collection, ()):
                raise NotFound
            salon.delete(collection, row_id)
            return jsonify(deleted=row_id)

        @app.post("/control/moods")
        def add_fault() -> ResponseReturnValue:
            self.faults.append(Fault(**request.get_json()))
            return jsonify(moods=len(self.faults))

        @app.get("/control")
        def counts() -> ResponseReturnValue:
            sizes = {name: len(rows) for name, rows in salon.collections.items()}
            return jsonify(requests=len(self.request_log), refused=self.rate_limited, rows=sizes)

        return app

    # Checks before each request: rate limits, tokens, faults

    def _check_request(self) -> Response | None:
        if not request.path.startswith(API):
            return None
        wait = self._record_request()
        if wait > 0:
            answer = error_response(429, "Превышен лимит запросов")
            answer.headers["Retry-After"] = str(math.ceil(wait))
            return answer
        if request.headers.get("Authorization") != f"Bearer {PARTNER_TOKEN}, User {USER_TOKEN}":
            return error_response(401, "Необходимо авторизоваться")
        fault = self._next_fault(request.path)
        return None if fault is None else self._inject_fault(fault)

    def _record_request(self) -> float:
        """Record a request; return the seconds until the rate limits allow it (0 if they do now)."""
        now = time.monotonic()
        with self._lock:
            waits = [
                self._request_times[-limit.count] + limit.seconds - now
                for limit in self._limits
                if len(self._request_times) >= limit.count
            ]
            wait = max(waits, default=0.0)
            if wait > 0:
                self.rate_limited += 1
            else:
                self._request_times.append(now)
                self.request_log.append(f"{request.method} {request.full_path.rstrip('?')}")
            return wait

    def _next_fault(self, path: str) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self.faults if fault.path in path), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
            return fault

    def _inject_fault(self, fault: Fault) -> Response | None:
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            return None
        answers: dict[str, Callable[[], Response]] = {
            "garbage": lambda: Response("<html>Сервис недоступен</html>", 200),
            "cut": lambda: Response('{"success": true, "data": [{"id": 1, "na', 200),
            "unsuccessful": lambda: error_response(200, "Произошла ошибка"),
            "empty": lambda: success_response([], {"total_count": 0}),
            "status": lambda: error_response(fault.status, "Произошла ошибка"),
        }
        answer = answers[fault.kind]()
        if fault.retry_after is not None:
            answer.headers["Retry-After"] = str(fault.retry_after)
        return answer

    # API endpoints

    def _company(self, company_id: int) -> Response:
        self._check(company_id)
        return success_response(self.salon.company)

    def _whole_list(self, company_id: int, collection: str) -> Response:
        self._check(company_id)
        if collection not in ("service_categories", "services", "staff"):
            raise NotFound
        rows = self._rows(collection)
        return success_response(rows, {"total_count": len(rows)})

    def _clients(self, company_id: int) -> Response:
        self._check(company_id)
        wanted = request.get_json()
        fields = wanted.get("fields") or ["id"]
        size = min(int(wanted.get("page_size", 25)), MAX_CLIENTS_PER_PAGE)
        rows, total = self._page(self._rows("clients"), int(wanted.get("page", 1)), size)
        found = [{name: row[name] for name in fields if name in row} for row in rows]
        return success_response(found, {"total_count": total})

    def _records(self, company_id: int) -> Response:
        self._check(company_id)
        wanted = request.args
        rows = self._rows("records")
        if not wanted.get("with_deleted", type=int):
            rows = [row for row in rows if boolean(row.get("deleted")) is not True]
        for name, is_within in (("changed_after", _is_after), ("changed_before", _is_before)):
            if name in wanted:
                moment = datetime.fromisoformat(wanted[name])
                rows = [row for row in rows if is_within(row, moment)]
        page = wanted.get("page", 1, type=int)
        size = min(wanted.get("count", 50, type=int), MAX_RECORDS_PER_PAGE)
        found, total = self._page(rows, page, size)
        return success_response(found, {"page": page, "total_count": total})

    def _schedule(self, company_id: int, staff_id: int, first: str, last: str) -> Response:
        self._check(company_id)
        if staff_id not in self.salon.collections["staff"]:
            raise NotFound
        days = self.salon.schedule(staff_id, date.fromisoformat(first), date.fromisoformat(last))
        return success_response(days)

    def _check(self, company_id: int) -> None:
        if company_id != self.salon.company_id:
            raise NotFound

    def _rows(self, collection: str) -> list[Payload]:
        with self.salon.lock:
            return list(self.salon.collections[collection].values())

    @staticmethod
    def _page(rows: list[Payload], number: int, size: int) -> tuple[list[Payload], int]:
        return rows[(number - 1) * size : number * size], len(rows)


def _is_after(row: Payload, moment: datetime) -> bool:
    return datetime.fromisoformat(row["last_change_date"]) >= moment


def _is_before(row: Payload, moment: datetime) -> bool:
    return datetime.fromisoformat(row["last_change_date"]) <= moment


def success_response(data: Any, meta: Any = ()) -> Response:
    """Build a success response. An empty `meta` is serialised as `[]`, as the real API (PHP) does."""
    return jsonify(success=True, data=data, meta=meta)


def error_response(status: int, message: str) -> Response:
    """Build an error response."""
    answer = jsonify(success=False, data=None, meta={"message": message})
    answer.status_code = status
    return answer


@contextmanager
def run_server(
    fake: FakeYClients, host: str = "127.0.0.1", port: int = 0, on_answer: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Serve the fake API in threads of this process, and yield the base URL of the API.

    `port` 0 selects a free port. `on_answer` is called with the method, path and status of each request.
    Raises OSError if the port is in use.
    """

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # keep connections alive, as the real API does

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            if on_answer is not None:
                on_answer(f"{self.command} {self.path} {int(code)}")

    # Bind the port before make_server: werkzeug exits the process if the port is in use.
    with socket.create_server((host, port)) as listener:
        server = make_server(
            host, port, fake.app, threaded=True, request_handler=Handler, fd=listener.fileno()
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="fake-yclients", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.port}{API}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
