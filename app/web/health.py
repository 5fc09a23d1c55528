"""The health API: what orchestrators and operators ask."""

import re
import time
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.web.database_check import DatabaseCheck, Verdict
from app.web.tokens import has_token
from app.web.whatsapp_check import WhatsAppCheck
from app.whatsapp.health import Level

HIGH = 80  # percent of the pool in use

Document = dict[str, Any]


class Health:
    """The health of one process; `shutting_down` makes it unready before it stops to answer."""

    def __init__(self, desk: Frontdesk) -> None:
        self._desk = desk
        self._started = time.monotonic()
        self._check_database = DatabaseCheck(desk.database)
        self._check_whatsapp = WhatsAppCheck(desk.database, desk.settings)
        self.shutting_down = False

    def blueprint(self) -> Blueprint:
        """The routes under /health."""
        routes = Blueprint("health", __name__, url_prefix="/health")
        routes.add_url_rule("", view_func=self.process)
        routes.add_url_rule("/live", view_func=self.live)
        routes.add_url_rule("/ready", view_func=self.ready)
        routes.add_url_rule("/database", view_func=self.database)
        routes.add_url_rule("/whatsapp", view_func=self.whatsapp)
        return routes

    def process(self) -> ResponseReturnValue:
        """The process alone, without the database: always fast. `uptime` is in seconds."""
        uptime = int(time.monotonic() - self._started)
        return jsonify(status="ok", uptime=uptime, timestamp=_now())

    def live(self) -> ResponseReturnValue:
        """Whether the process answers; a lost database is no reason to restart it."""
        return jsonify(status="ok")

    def ready(self) -> ResponseReturnValue:
        """200 when requests can be served; 503 with a code otherwise."""
        code = "shutting_down" if self.shutting_down else self._check_database().value
        if code == Verdict.READY.value:
            return self._answer("ok", {"timestamp": _now()})
        return self._answer("unavailable", {"code": code, "timestamp": _now()}, 503)

    def database(self) -> ResponseReturnValue:
        """Connections of this process's pool, and whether the database answers at all."""
        reachable = self._check_database() is not Verdict.UNREACHABLE
        pool = self._desk.database.pool.get_stats()
        total, idle, limit = pool["pool_size"], pool["pool_available"], pool["pool_max"]
        waiting, in_use = pool.get("requests_waiting", 0), total - idle
        percent = round(100 * in_use / limit)
        status = "healthy"
        if not reachable:
            status = "unreachable"
        elif waiting or in_use >= limit:
            status = "at_capacity"
        document = {
            "enabled": True,
            "backend": "postgresql",
            "connections": {"total": total, "idle": idle, "waiting": waiting, "max": limit},
            "utilization": {"percent": percent, "status": "high" if percent > HIGH else "normal"},
            "health": {"status": status, "waiting_requests": waiting},
        }
        if not self._may_see_details():
            return jsonify(status=status), 200 if reachable else 503
        return jsonify(timestamp=_now(), database=document), 200 if reachable else 503

    def whatsapp(self) -> ResponseReturnValue:
        """All salons' WhatsApp sessions, or one salon's (`?company_id=`); 503 when critical."""
        try:
            seen = self._check_whatsapp()
        except FrontdeskError as error:
            return self._answer("unavailable", {"code": error.code, "timestamp": _now()}, 503)
        company = request.args.get("company_id")
        if company is None:
            return self._answer_level(seen.level, seen.as_dict())
        if re.fullmatch("[0-9]{1,19}", company) is None:
            return self._answer("unknown", {"code": "invalid"}, 400)
        salon = seen.salons.get(int(company))
        if salon is None:
            return self._answer("unknown", {"code": "unknown_company"}, 404)
        return self._answer_level(salon.level, seen.salon_as_dict(salon.company_id))

    def _answer_level(self, level: Level, details: Document) -> ResponseReturnValue:
        return self._answer(
            str(level),
            {name: value for name, value in details.items() if name != "status"},
            503 if level is Level.CRITICAL else 200,
        )

    def _answer(self, status: str, details: Document, code: int = 200) -> ResponseReturnValue:
        return jsonify(status=status, **(details if self._may_see_details() else {})), code

    def _may_see_details(self) -> bool:
        """Whether HEALTH_TOKEN came along, as a Bearer token or as a Basic password; or none is set."""
        expected = self._desk.settings.health_token
        if expected is None:
            return True
        return has_token(expected)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
