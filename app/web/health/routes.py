"""Routes of the health API, for orchestrators and operators."""

import re
import time
from datetime import UTC, datetime

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.observability.severity import Severity
from app.text import format_utc
from app.web.health.database_check import DatabaseCheck, DatabaseStatus
from app.web.health.documents import Document, health_answer
from app.web.health.transfer_check import TransferCheck
from app.web.health.whatsapp_check import WhatsAppCheck
from app.web.serving.tokens import has_token

POOL_HIGH_PERCENT = 80  # utilization above this is reported as "high"


class Health:
    """Health of this process. Set `shutting_down` to report "not ready" while requests are still served."""

    def __init__(self, desk: Frontdesk) -> None:
        self._desk = desk
        self._started = time.monotonic()
        self.check_database = DatabaseCheck(desk.database)
        self.check_whatsapp = WhatsAppCheck(desk.database, desk.settings)
        self.check_transfer = TransferCheck(desk.settings)
        self.shutting_down = False

    @property
    def uptime(self) -> int:
        """Whole seconds since this process started."""
        return int(time.monotonic() - self._started)

    def blueprint(self) -> Blueprint:
        """Return the routes under /health."""
        routes = Blueprint("health", __name__, url_prefix="/health")
        routes.add_url_rule("", view_func=self.process)
        routes.add_url_rule("/live", view_func=self.live)
        routes.add_url_rule("/ready", view_func=self.ready)
        routes.add_url_rule("/database", view_func=self.database)
        routes.add_url_rule("/whatsapp", view_func=self.whatsapp)
        routes.add_url_rule("/transfer", view_func=self.transfer)
        return routes

    def process(self) -> ResponseReturnValue:
        """Return status and `uptime` (seconds) of the process. Does not query the database."""
        document = {"status": "ok", "uptime": self.uptime, "timestamp": _now()}
        return health_answer(self._desk.settings, "process", "ok", document, 200)

    def live(self) -> ResponseReturnValue:
        """Return 200 always: liveness. An unreachable database is no reason to restart the process."""
        return health_answer(self._desk.settings, "process", "ok", {"status": "ok"}, 200)

    def ready(self) -> ResponseReturnValue:
        """Return 200 if this process can serve requests, else 503 with a code: readiness."""
        code = "shutting_down" if self.shutting_down else self.check_database().value
        if code == DatabaseStatus.READY.value:
            return self._answer("database", "ok", {"timestamp": _now()})
        return self._answer("database", "unavailable", {"code": code, "timestamp": _now()}, 503)

    def database(self) -> ResponseReturnValue:
        """Return the connections of this process's pool; 503 if the database is unreachable."""
        reachable = self.check_database() is not DatabaseStatus.UNREACHABLE
        pool = self._desk.database.pool
        pool_stats = pool.get_stats()
        total, idle, limit = pool_stats["pool_size"], pool_stats["pool_available"], pool_stats["pool_max"]
        # psycopg's `requests_waiting` also counts requests whose wait has timed out.
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
        body: Document = {"status": status}
        if self.may_see_details():
            body = {"timestamp": _now(), "database": document}
        return health_answer(self._desk.settings, "database", status, body, 200 if reachable else 503)

    def whatsapp(self) -> ResponseReturnValue:
        """Return the health of all WhatsApp sessions, or of one salon's (`?company_id=`); 503 if critical."""
        try:
            health = self.check_whatsapp()
        except FrontdeskError as error:
            return self._answer("whatsapp", "unavailable", {"code": error.code, "timestamp": _now()}, 503)
        company = request.args.get("company_id")
        if company is None:
            return self._answer_level(health.level, health.as_dict())
        if re.fullmatch("[0-9]{1,19}", company) is None:
            return self._answer("whatsapp", "unknown", {"code": "invalid"}, 400)
        salon = health.salons.get(int(company))
        if salon is None:
            return self._answer("whatsapp", "unknown", {"code": "unknown_company"}, 404)
        return self._answer_level(salon.level, health.salon_as_dict(salon.company_id))

    def transfer(self) -> ResponseReturnValue:
        """Return the state of the transfer from LEGACY_DATABASE_URL to DATABASE_URL; 503 if critical."""
        try:
            health = self.check_transfer()
        except FrontdeskError as error:
            return self._answer("transfer", "unavailable", {"code": error.code, "timestamp": _now()}, 503)
        if health is None:  # the same fields, so that clients need not check for them
            empty = dict.fromkeys(("live", "lag", "replay_seconds", "divergences", "last_verification"))
            details: Document = {"stage": "not configured", **empty, "timestamp": _now()}
            return self._answer("transfer", "not_configured", details)
        code = 503 if health.level is Severity.CRITICAL else 200
        return self._answer("transfer", str(health.level), {**health.as_dict(), "timestamp": _now()}, code)

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
        """Return True if the request carries HEALTH_TOKEN, or if none is set.

        The token is a Bearer token or the password of Basic authentication.
        """
        expected = self._desk.settings.health_token
        if expected is None:
            return True
        return has_token(expected)


def _now() -> str:
    return format_utc(datetime.now(UTC))
