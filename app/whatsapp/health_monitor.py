"""Check of all WhatsApp sessions, which also records episodes of critical sessions and reports new ones."""

from contextlib import closing
from datetime import UTC, datetime

from app.config import Settings
from app.database.connection import Connection
from app.database.database import Database
from app.database.live_database import AnyDatabase
from app.observability import sentry
from app.observability.severity import Severity
from app.repositories import server_activity
from app.repositories import whatsapp_all_companies as overview
from app.whatsapp.health import SalonHealth, Thresholds, WhatsAppHealth, assess_session
from app.whatsapp.retention import Retention
from app.whatsapp.session_store import KeyTypeStatistics

STATEMENT_TIMEOUT_MS = 10_000  # probes stop waiting earlier


def check_health(database: AnyDatabase, settings: Settings, company_id: int | None = None) -> WhatsAppHealth:
    """Check the sessions of all salons, or of one, and report each that has become critical.

    Uses a connection outside the pool. Raises the errors of psycopg.
    """

    def attempt(live: Database) -> WhatsAppHealth:
        with closing(live.connect_outside_pool(STATEMENT_TIMEOUT_MS)) as connection:
            health = _read_health(connection, settings, company_id)
            if not server_activity.is_read_only(connection):  # a read-only database cannot record episodes
                _record_max_sessions(connection, health)
                _report_critical(connection, health)
        return health

    return database.run_on_live(attempt)


def _read_health(connection: Connection, settings: Settings, company_id: int | None) -> WhatsAppHealth:
    retention, limits = Retention.from_settings(settings), Thresholds.from_settings(settings)
    keys: dict[int, dict[str, KeyTypeStatistics]] = {}
    last: dict[int, datetime] = {}
    expiring: dict[str, bool] = {}
    for company, key_type, total, expired, written in overview.count_keys(connection, company_id):
        if key_type not in expiring:
            expiring[key_type] = retention.has_expiry(key_type)
        statistics = KeyTypeStatistics(total, expired if expiring[key_type] else 0)
        keys.setdefault(company, {})[key_type] = statistics
        last[company] = max(written, last.get(company, written))
    now = datetime.now(UTC)
    return WhatsAppHealth(
        now,
        limits,
        {
            state.company_id: assess_session(
                state, keys.get(state.company_id, {}), last.get(state.company_id), limits, now
            )
            for state in overview.read_session_states(connection, company_id)
        },
    )


def _record_max_sessions(connection: Connection, health: WhatsAppHealth) -> None:
    """Store the highest session count per company, against which later counts are compared."""
    min_sessions = health.thresholds.min_sessions
    most = {
        salon.company_id: salon.sessions
        for salon in health.salons.values()
        if salon.state.most_sessions < min_sessions <= salon.sessions
    }
    overview.record_max_sessions(connection, most)


def _report_critical(connection: Connection, health: WhatsAppHealth) -> None:
    """Send one message per critical episode, even if several processes detect it."""

    def is_critical(salon: SalonHealth) -> bool:
        return salon.is_paired and salon.level is Severity.CRITICAL

    new = [
        salon.company_id
        for salon in health.salons.values()
        if is_critical(salon) and salon.state.critical_since is None
    ]
    for company_id in overview.mark_critical(connection, new):
        reasons = [f.reason for f in health.salons[company_id].problems if f.level is Severity.CRITICAL]
        sentry.capture_message(
            f"The WhatsApp session of company {company_id} is critical: {', '.join(reasons)}",
            company_id=company_id,
        )
    recovered = [
        salon.company_id
        for salon in health.salons.values()
        if salon.state.critical_since is not None and not is_critical(salon)
    ]
    overview.clear_critical(connection, recovered)
