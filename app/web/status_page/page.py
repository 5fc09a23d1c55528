"""Status page for operators: the state of the installation on one screen.

The page is HTML with SVG charts. It needs no JavaScript, no build step and no other server. It contains no
personal data. A section whose data cannot be read in time shows "unknown" and delays no other section.
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

REFRESH_SECONDS = 10
MAX_LISTED = 20  # rows of one table
# Lengths of the time axis. A process that started recently uses a short axis, so that its chart is not empty.
CHART_WINDOWS_SECONDS = (HISTORY_SECONDS / 6, HISTORY_SECONDS / 2, HISTORY_SECONDS)
SUMMARY_WINDOW_SECONDS = 300.0  # period of the current percentiles and rates

STATES = {
    DatabaseStatus.READY: "well",
    DatabaseStatus.UNREACHABLE: "down",
    DatabaseStatus.BEHIND: "attention",
    DatabaseStatus.UNKNOWN: "attention",
}


class StatusPage:
    """The status page and its history of the last half hour."""

    def __init__(self, desk: Frontdesk, health: Health) -> None:
        self._desk = desk
        self._health = health
        self._installation_check = InstallationCheck(desk.database)
        self.history = History(health.check_database, self._installation_check, health.check_transfer)

    def blueprint(self) -> Blueprint:
        """Return the route `/status`."""
        routes = Blueprint("status", __name__, template_folder="templates")
        routes.add_url_rule("/status", view_func=self.show)
        for name, filter_ in FILTERS.items():
            routes.add_app_template_filter(filter_, name)
        return routes

    def show(self) -> ResponseReturnValue:
        """Return the page.

        If HEALTH_TOKEN is set and the request does not carry it, return 401 with a page that shows the state
        only; a browser then asks for the password.
        """
        for check in (self._health.check_database, self._installation_check, self._health.check_whatsapp):
            check.start()
        samples = self.history.read_samples()
        whatsapp = self._whatsapp()
        installation = self._installation_check()
        backup_ages = check_freshness(installation.backups, self._desk.settings) if installation else []
        transfer = self._transfer()
        slow = slow_queries.recent()
        recent = interval_since(samples, RECENT_WINDOW.total_seconds())
        pool_window_start = samples[-1].at - POOL_HIGH_WINDOW.total_seconds()
        problems = find_problems(
            self._health.shutting_down,
            samples[-1].database_status,
            [sample.snapshot for sample in samples if sample.at >= pool_window_start],
            None if recent is None else recent.delta,
            installation,
            whatsapp,
            slow,
            backup_ages,
            transfer,
        )
        page: dict[str, Any] = {
            "service": self._desk.settings.service_name,
            "state": max((problem.state for problem in problems), default=ServiceState.WELL),
            "now": datetime.now(UTC),
            "refresh": REFRESH_SECONDS,
            "nonce": secrets.token_urlsafe(16),
            "details": self._health.may_see_details(),
        }
        if page["details"]:
            page |= {
                "release": self._desk.settings.release,
                "uptime": timedelta(seconds=self._health.uptime),
                "problems": problems,
                "database_status": samples[-1].database_status,
                "pool": samples[-1].snapshot,
                "installation": installation,
                "backup_ages": backup_ages,
                "whatsapp": whatsapp,
                "levels": Severity,
                "is_moving": self._health.check_transfer.is_configured,
                "transfer": transfer,
                "slow": _by_statement(slow)[:MAX_LISTED],
                "listed": MAX_LISTED,
                **_figures(samples),
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
            return None  # the check has logged the reason

    def _transfer(self) -> TransferHealth | None:
        try:
            return self._health.check_transfer()
        except FrontdeskError:
            return None  # the check has logged the reason


@dataclass(frozen=True)
class SlowStatement:
    """A slow statement: its slowest run, the number of slow runs, and the time of the newest one."""

    worst: SlowQuery
    times: int
    last: str


def _by_statement(slow: list[SlowQuery]) -> list[SlowStatement]:
    """Group slow queries by statement, the most recently slow statement first."""
    groups: dict[str, list[SlowQuery]] = {}
    for query in slow:
        groups.setdefault(query.text, []).append(query)
    return [
        SlowStatement(max(group, key=lambda query: query.duration_ms), len(group), group[0].at)
        for group in groups.values()
    ]


def _figures(samples: list[HistorySample]) -> dict[str, Any]:
    """Return the template's charts of up to half an hour, and its metrics of SUMMARY_WINDOW_SECONDS."""
    now, parts, lately = samples[-1], intervals(samples), interval_since(samples, SUMMARY_WINDOW_SECONDS)
    sampled = now.at - samples[0].at
    window = next((length for length in CHART_WINDOWS_SECONDS if sampled <= length), HISTORY_SECONDS)

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
            f"Durations of queries over time; the median is now {charts.milliseconds(percentiles['p50'])}.",
        ),
        "pool_use": charts.chart_of_counts(
            window,
            {
                "in-use": curve((sample.at, sample.snapshot.pool_in_use) for sample in samples),
                "waiting": curve((sample.at, sample.snapshot.pool_waiting or None) for sample in samples),
            },
            now.snapshot.pool_max,
            f"Connections in use over time; now {now.snapshot.pool_in_use}.",
        ),
        "commits": charts.chart_of_counts(
            window,
            {"commits": curve(commits)},
            10,
            "Transactions per second over time.",
        ),
        "answering": charts.strip_of_states(
            window,
            SAMPLE_INTERVAL_SECONDS,
            [(now.at - sample.at, STATES[sample.database_status]) for sample in samples],
            f"Database status over time; now: {now.database_status.value}.",
        ),
    }


def _syncs(installation: Installation | None) -> dict[str, Any]:
    """Return the template's syncs: companies with an unsuccessful sync first, then the most recent runs."""
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
    """Format a time as its age: `40 s ago`, `3 min ago`, `5 h ago`, `12 days ago`."""
    return f"{_format_length(datetime.now(UTC) - moment)} ago"


def _format_length(time: timedelta) -> str:
    seconds = max(0, int(time.total_seconds()))
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _with_code(text: str) -> Markup:
    """Return text as HTML, with the parts in backticks as <code> elements."""
    parts = [escape(part) for part in text.split("`")]
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if number % 2 else part for number, part in enumerate(parts))


def _shorten_statement(statement: str) -> str:
    """Cut the middle out of a long statement: it lists columns; tables and conditions are at the end."""
    return statement if len(statement) <= 320 else f"{statement[:100]} … {statement[-200:]}"


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": _ago,
    "ends": _shorten_statement,
    "length_of_time": _format_length,
    "milliseconds": charts.milliseconds,
    "moment": datetime.fromisoformat,
    "with_code": _with_code,
}
