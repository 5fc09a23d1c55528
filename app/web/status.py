"""The status page: what an operator wants to know at three in the morning, on one screen.

Rendered here, drawn as SVG: it needs no JavaScript, no build step and no other server. Nothing on it is
about a person, and a part that cannot be known in time says so and holds up no other.
"""

import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, make_response, render_template
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.observability import slow_queries
from app.web import charts
from app.web.database_check import Verdict
from app.web.health import Health
from app.web.history import EVERY, WINDOW, History, Look, intervals, since
from app.web.installation_check import Installation, InstallationCheck
from app.web.verdicts import RECENT, State, problems
from app.whatsapp.health import Level, Overview

REFRESH = 10  # seconds
LISTED = 20  # rows of one table
SUMMARY = 300.0  # seconds that "now" looks back

STATES = {
    Verdict.READY: "well",
    Verdict.UNREACHABLE: "down",
    Verdict.BEHIND: "attention",
    Verdict.UNKNOWN: "attention",
}


class StatusPage:
    """The page, and the half hour that it shows."""

    def __init__(self, desk: Frontdesk, health: Health) -> None:
        self._desk = desk
        self._health = health
        self._installation = InstallationCheck(desk.database)
        self.history = History(health.check_database, self._installation)

    def blueprint(self) -> Blueprint:
        """The route."""
        routes = Blueprint("status", __name__, template_folder="templates")
        routes.add_url_rule("/status", view_func=self.show)
        for name, filter_ in FILTERS.items():
            routes.add_app_template_filter(filter_, name)
        return routes

    def show(self) -> ResponseReturnValue:
        """The page; without HEALTH_TOKEN, where one is set, the state alone and a browser's question."""
        for check in (self._health.check_database, self._installation, self._health.check_whatsapp):
            check.start()
        looks = self.history.with_now()
        whatsapp = self._whatsapp()
        installation = self._installation()
        slow = slow_queries.last()
        recent = since(looks, RECENT.total_seconds())
        found = problems(
            self._health.shutting_down,
            looks[-1].verdict,
            looks[-1].snapshot,
            None if recent is None else recent.happened,
            installation,
            whatsapp,
            slow,
        )
        page: dict[str, Any] = {
            "service": self._desk.settings.service_name,
            "state": max((problem.state for problem in found), default=State.WELL),
            "now": datetime.now(UTC),
            "refresh": REFRESH,
            "nonce": secrets.token_urlsafe(16),
            "details": self._health.may_see_details(),
        }
        if page["details"]:
            page |= {
                "release": self._desk.settings.release,
                "uptime": timedelta(seconds=self._health.uptime),
                "problems": found,
                "verdict": looks[-1].verdict,
                "pool": looks[-1].snapshot,
                "installation": installation,
                "whatsapp": whatsapp,
                "levels": Level,
                "slow": slow[:LISTED],
                "listed": LISTED,
                **_figures(looks),
                **_syncs(installation),
            }
        response = make_response(render_template("status.html", **page))
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'nonce-{page['nonce']}'; img-src data:;"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if not page["details"]:
            response.status_code = 401
            response.headers["WWW-Authenticate"] = 'Basic realm="Frontdesk", charset="UTF-8"'
        return response

    def _whatsapp(self) -> Overview | None:
        try:
            return self._health.check_whatsapp()
        except FrontdeskError:
            return None  # the check has told the log why


def _figures(looks: list[Look]) -> dict[str, Any]:
    """Curves of the last half hour, and figures of the last minutes."""
    now, parts, lately = looks[-1], intervals(looks), since(looks, SUMMARY)

    def curve(values: Iterable[tuple[float, float | None]]) -> list[charts.Point]:
        return [(now.at - at, value) for at, value in values]

    def durations(share: float) -> list[charts.Point]:
        seconds = [(part.at, part.happened.percentile(share)) for part in parts]
        return curve((at, None if value is None else value * 1000) for at, value in seconds)

    percentiles = {
        name: None if lately is None or (value := lately.happened.percentile(share)) is None else value * 1000
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return {
        "percentiles": percentiles,
        "query_rate": lately and lately.happened.queries / lately.seconds,
        "commit_rate": lately and lately.commits is not None and lately.commits / lately.seconds,
        "watched": timedelta(seconds=now.at - looks[0].at),
        "latency": charts.chart_of_times(
            WINDOW,
            {"p50": durations(0.5), "p95": durations(0.95)},
            f"Durations of queries over half an hour; now half take less than"
            f" {charts.milliseconds(percentiles['p50'])}.",
        ),
        "pool_use": charts.chart_of_counts(
            WINDOW,
            {
                "in-use": curve((look.at, look.snapshot.pool_in_use) for look in looks),
                "waiting": curve((look.at, look.snapshot.pool_waiting or None) for look in looks),
            },
            now.snapshot.pool_max,
            f"Connections in use over half an hour; now {now.snapshot.pool_in_use}.",
        ),
        "commits": charts.chart_of_counts(
            WINDOW,
            {"commits": curve((part.at, _rate(part.commits, part.seconds)) for part in parts)},
            10,
            "Transactions a second over half an hour.",
        ),
        "answering": charts.strip_of_states(
            WINDOW,
            EVERY,
            [(now.at - look.at, STATES[look.verdict]) for look in looks],
            f"Whether the database answered over half an hour; now: {now.verdict.value}.",
        ),
    }


def _rate(number: int | None, seconds: float) -> float | None:
    # A server that was restarted counts from nothing again.
    return None if number is None or number < 0 else round(number / seconds, 1)


def _syncs(installation: Installation | None) -> dict[str, Any]:
    """The companies whose sync did not end well first, then the most recent ones."""
    if installation is None:
        return {"syncs": [], "last_success": None}
    ended = [run.last_success for run, _ in installation.syncs if run.last_success is not None]
    return {
        "syncs": sorted(
            installation.syncs, key=lambda each: (each[1].is_well, -each[0].started_at.timestamp())
        ),
        "last_success": max(ended, default=None),
    }


def _ago(moment: datetime) -> str:
    """`40 s ago`, `3 min ago`, `5 h ago`, `12 days ago`."""
    return f"{_length(datetime.now(UTC) - moment)} ago"


def _length(time: timedelta) -> str:
    seconds = max(0, int(time.total_seconds()))
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _with_code(text: str) -> Markup:
    """What stands in backticks as code; everything else as it is."""
    parts = [escape(part) for part in text.split("`")]
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if number % 2 else part for number, part in enumerate(parts))


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": _ago,
    "length_of_time": _length,
    "milliseconds": charts.milliseconds,
    "moment": datetime.fromisoformat,
    "with_code": _with_code,
}
