"""The status page: what an operator wants to know at three in the morning, on one screen.

Rendered here, drawn as SVG: it needs no JavaScript, no build step and no other server. Nothing on it is
about a person, and a part that cannot be known in time says so and holds up no other.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, make_response, render_template
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape

from app.backup.freshness import check_freshness
from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.observability import slow_queries
from app.observability.severity import Severity
from app.observability.slow_queries import SlowQuery
from app.transfer.health import TransferHealth
from app.web.health.database_check import DatabaseStatus
from app.web.health.installation_check import Installation, InstallationCheck
from app.web.health.problems import POOL_HIGH_WINDOW, RECENT_WINDOW, ServiceState, find_problems
from app.web.health.routes import Health
from app.web.status_page import charts
from app.web.status_page.history import (
    HISTORY_SECONDS,
    SAMPLE_INTERVAL_SECONDS,
    History,
    HistorySample,
    interval_since,
    intervals,
)
from app.whatsapp.health import WhatsAppHealth

REFRESH_SECONDS = 10  # seconds
MAX_LISTED = 20  # rows of one table
CHART_WINDOWS_SECONDS = (
    HISTORY_SECONDS / 6,
    HISTORY_SECONDS / 2,
    HISTORY_SECONDS,
)  # seconds; a young process shows a shorter time, not a void
SUMMARY_WINDOW_SECONDS = 300.0  # seconds that "now" looks back

STATES = {
    DatabaseStatus.READY: "well",
    DatabaseStatus.UNREACHABLE: "down",
    DatabaseStatus.BEHIND: "attention",
    DatabaseStatus.UNKNOWN: "attention",
}


class StatusPage:
    """The page, and the half hour that it shows."""

    def __init__(self, desk: Frontdesk, health: Health) -> None:
        self._desk = desk
        self._health = health
        self._installation_check = InstallationCheck(desk.database)
        self.history = History(health.check_database, self._installation_check, health.check_transfer)

    def blueprint(self) -> Blueprint:
        """The route."""
        routes = Blueprint("status", __name__, template_folder="templates")
        routes.add_url_rule("/status", view_func=self.show)
        for name, filter_ in FILTERS.items():
            routes.add_app_template_filter(filter_, name)
        return routes

    def show(self) -> ResponseReturnValue:
        """The page; without HEALTH_TOKEN, where one is set, the state alone and a browser's question."""
        for check in (self._health.check_database, self._installation_check, self._health.check_whatsapp):
            check.start()
        looks = self.history.read_samples()
        whatsapp = self._whatsapp()
        installation = self._installation_check()
        backup_ages = check_freshness(installation.backups, self._desk.settings) if installation else []
        transfer = self._transfer()
        slow = slow_queries.recent()
        recent = interval_since(looks, RECENT_WINDOW.total_seconds())
        found = find_problems(
            self._health.shutting_down,
            looks[-1].database_status,
            [look.snapshot for look in looks if look.at >= looks[-1].at - POOL_HIGH_WINDOW.total_seconds()],
            None if recent is None else recent.delta,
            installation,
            whatsapp,
            slow,
            backup_ages,
            transfer,
        )
        page: dict[str, Any] = {
            "service": self._desk.settings.service_name,
            "state": max((problem.state for problem in found), default=ServiceState.WELL),
            "now": datetime.now(UTC),
            "refresh": REFRESH_SECONDS,
            "nonce": secrets.token_urlsafe(16),
            "details": self._health.may_see_details(),
        }
        if page["details"]:
            page |= {
                "release": self._desk.settings.release,
                "uptime": timedelta(seconds=self._health.uptime),
                "problems": found,
                "verdict": looks[-1].database_status,
                "pool": looks[-1].snapshot,
                "installation": installation,
                "backup_ages": backup_ages,
                "whatsapp": whatsapp,
                "levels": Severity,
                "is_moving": self._health.check_transfer.is_configured,
                "transfer": transfer,
                "slow": _by_statement(slow)[:MAX_LISTED],
                "listed": MAX_LISTED,
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

    def _whatsapp(self) -> WhatsAppHealth | None:
        try:
            return self._health.check_whatsapp()
        except FrontdeskError:
            return None  # the check has told the log why

    def _transfer(self) -> TransferHealth | None:
        try:
            return self._health.check_transfer()
        except FrontdeskError:
            return None  # likewise


@dataclass(frozen=True)
class SlowStatement:
    """One statement that was slow once or many times, the newest `last`."""

    worst: SlowQuery
    times: int
    last: str


def _by_statement(slow: list[SlowQuery]) -> list[SlowStatement]:
    """A statement that is slow is so again and again: each once, the one that was slow last first."""
    groups: dict[str, list[SlowQuery]] = {}
    for query in slow:
        groups.setdefault(query.text, []).append(query)
    return [
        SlowStatement(max(group, key=lambda query: query.duration_ms), len(group), group[0].at)
        for group in groups.values()
    ]


def _figures(samples: list[HistorySample]) -> dict[str, Any]:
    """Curves of the time that was watched, half an hour at most, and figures of the last minutes."""
    now, parts, lately = samples[-1], intervals(samples), interval_since(samples, SUMMARY_WINDOW_SECONDS)
    watched = now.at - samples[0].at
    window = next((each for each in CHART_WINDOWS_SECONDS if watched <= each), HISTORY_SECONDS)

    def curve(values: Iterable[tuple[float, float | None]]) -> list[charts.Point]:
        return [(now.at - at, value) for at, value in values]

    def durations(share: float) -> list[charts.Point]:
        seconds = [(part.at, part.delta.percentile(share)) for part in parts]
        return curve((at, None if value is None else value * 1000) for at, value in seconds)

    commits = [(part.at, None if part.commits is None else part.commits / part.seconds) for part in parts]
    percentiles = {
        name: None if lately is None or (value := lately.delta.percentile(share)) is None else value * 1000
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return {
        "percentiles": percentiles,
        "pool_waits": 0 if lately is None else lately.delta.pool_waits,
        "query_rate": None if lately is None else lately.delta.queries / lately.seconds,
        "commit_rate": commits[-1][1] if commits else None,
        "latency": charts.chart_of_times(
            window,
            {"p50": durations(0.5), "p95": durations(0.95)},
            f"Durations of queries over time; now half take less than"
            f" {charts.milliseconds(percentiles['p50'])}.",
        ),
        "pool_use": charts.chart_of_counts(
            window,
            {
                "in-use": curve((look.at, look.snapshot.pool_in_use) for look in samples),
                "waiting": curve((look.at, look.snapshot.pool_waiting or None) for look in samples),
            },
            now.snapshot.pool_max,
            f"Connections in use over time; now {now.snapshot.pool_in_use}.",
        ),
        "commits": charts.chart_of_counts(
            window,
            {"commits": curve(commits)},
            10,
            "Transactions a second over time.",
        ),
        "answering": charts.strip_of_states(
            window,
            SAMPLE_INTERVAL_SECONDS,
            [(now.at - look.at, STATES[look.database_status]) for look in samples],
            f"Whether the database answered over time; now: {now.database_status.value}.",
        ),
    }


def _syncs(installation: Installation | None) -> dict[str, Any]:
    """The companies whose sync did not end well first, then the most recent ones."""
    if installation is None:
        return {"syncs": [], "last_success": None}
    ended = [run.last_success for run, _ in installation.syncs if run.last_success is not None]
    return {
        "syncs": sorted(
            installation.syncs, key=lambda each: (each[1].is_healthy, -each[0].started_at.timestamp())
        ),
        "last_success": max(ended, default=None),
    }


def _ago(moment: datetime) -> str:
    """`40 s ago`, `3 min ago`, `5 h ago`, `12 days ago`."""
    return f"{_format_length(datetime.now(UTC) - moment)} ago"


def _format_length(time: timedelta) -> str:
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


def _shorten_statement(statement: str) -> str:
    """A long one without its middle, which names columns: the tables and conditions stand at its end."""
    return statement if len(statement) <= 320 else f"{statement[:100]} … {statement[-200:]}"


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": _ago,
    "ends": _shorten_statement,
    "length_of_time": _format_length,
    "milliseconds": charts.milliseconds,
    "moment": datetime.fromisoformat,
    "with_code": _with_code,
}
