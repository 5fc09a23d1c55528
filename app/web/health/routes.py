"""The health API: what orchestrators and operators ask."""

import re
import time
from datetime import UTC, datetime

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.observability.severity import Severity
from app.web.health.database_check import DatabaseCheck, DatabaseStatus
from app.web.health.documents import Document, health_answer
from app.web.health.transfer_check import TransferCheck
from app.web.health.whatsapp_check import WhatsAppCheck
from app.web.serving.tokens import has_token

POOL_HIGH_PERCENT = 80  # percent of the pool in use


class Health:
    """The health of one process; `shutting_down` makes it unready before it stops to answer."""

    def __init__(self, desk: Frontdesk) -> None:
        self._desk = desk
        self._started = time.monotonic()
        self.check_database = DatabaseCheck(desk.database)
        self.check_whatsapp = WhatsAppCheck(desk.database, desk.settings)
        self.check_transfer = TransferCheck(desk.settings)
        self.shutting_down = False

    @property
    def uptime(self) -> int:
        """Seconds since this process began."""
        return int(time.monotonic() - self._started)

    def blueprint(self) -> Blueprint:
        """The routes under /health."""
        routes = Blueprint("health", __name__, url_prefix="/health")
        routes.add_url_rule("", view_func=self.process)
        routes.add_url_rule("/live", view_func=self.live)
        routes.add_url_rule("/ready", view_func=self.ready)
        routes.add_url_rule("/database", view_func=self.database)
        routes.add_url_rule("/whatsapp", view_func=self.whatsapp)
        routes.add_url_rule("/transfer", view_func=self.transfer)
        return routes

    def process(self) -> ResponseReturnValue:
        """The process alone, without the database: always fast. `uptime` is in seconds."""
        document = {"status": "ok", "uptime": self.uptime, "timestamp": _now()}
        return health_answer(self._desk.settings, "process", "ok", document, 200)

    def live(self) -> ResponseReturnValue:
        """Whether the process answers; a lost database is no reason to restart it."""
        return health_answer(self._desk.settings, "process", "ok", {"status": "ok"}, 200)

    def ready(self) -> ResponseReturnValue:
        """200 when requests can be served; 503 with a code otherwise."""
        code = "shutting_down" if self.shutting_down else self.check_database().value
        if code == DatabaseStatus.READY.value:
            return self._answer("database", "ok", {"timestamp": _now()})
        return self._answer("database", "unavailable", {"code": code, "timestamp": _now()}, 503)

    def database(self) -> ResponseReturnValue:
        """Connections of this process's pool, and whether the database answers at all."""
        reachable = self.check_database() is not DatabaseStatus.UNREACHABLE
        pool = self._desk.database.pool
        figures = pool.get_stats()
        total, idle, limit = figures["pool_size"], figures["pool_available"], figures["pool_max"]
        # psycopg's own figure also counts those who gave up waiting.
        waiting, in_use = pool.waiting, pool.in_use
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
            "utilization": {
                "percent": percent,
                "status": "high" if percent > POOL_HIGH_PERCENT else "normal",
            },
            "health": {"status": status, "waiting_requests": waiting},
        }
        shown = {"timestamp": _now(), "database": document} if self.may_see_details() else {"status": status}
        return health_answer(self._desk.settings, "database", status, shown, 200 if reachable else 503)

    def whatsapp(self) -> ResponseReturnValue:
        """All salons' WhatsApp sessions, or one salon's (`?company_id=`); 503 when critical."""
        try:
            seen = self.check_whatsapp()
        except FrontdeskError as error:
            return self._answer("whatsapp", "unavailable", {"code": error.code, "timestamp": _now()}, 503)
        company = request.args.get("company_id")
        if company is None:
            return self._answer_level(seen.level, seen.as_dict())
        if re.fullmatch("[0-9]{1,19}", company) is None:
            return self._answer("whatsapp", "unknown", {"code": "invalid"}, 400)
        salon = seen.salons.get(int(company))
        if salon is None:
            return self._answer("whatsapp", "unknown", {"code": "unknown_company"}, 404)
        return self._answer_level(salon.level, seen.salon_as_dict(salon.company_id))

    def transfer(self) -> ResponseReturnValue:
        """The move from LEGACY_DATABASE_URL to DATABASE_URL; 503 when it needs somebody."""
        try:
            seen = self.check_transfer()
        except FrontdeskError as error:
            return self._answer("transfer", "unavailable", {"code": error.code, "timestamp": _now()}, 503)
        if seen is None:  # the same fields, for whoever reads them without asking first
            nothing = dict.fromkeys(("live", "lag", "replay_seconds", "divergences", "last_verification"))
            details: Document = {"stage": "not configured", **nothing, "timestamp": _now()}
            return self._answer("transfer", "not_configured", details)
        code = 503 if seen.level is Severity.CRITICAL else 200
        return self._answer("transfer", str(seen.level), {**seen.as_dict(), "timestamp": _now()}, code)

    def _answer_level(self, level: Severity, details: Document) -> ResponseReturnValue:
        return self._answer(
            "whatsapp",
            str(level),
            {name: value for name, value in details.items() if name != "status"},
            503 if level is Severity.CRITICAL else 200,
        )

    def _answer(self, check: str, status: str, details: Document, code: int = 200) -> ResponseReturnValue:
        document = {"status": status, **(details if self.may_see_details() else {})}
        return health_answer(self._desk.settings, check, status, document, code)

    def may_see_details(self) -> bool:
        """Whether HEALTH_TOKEN came along, as a Bearer token or as a Basic password; or none is set."""
        expected = self._desk.settings.health_token
        if expected is None:
            return True
        return has_token(expected)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
