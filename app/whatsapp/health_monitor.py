"""Looking after all sessions: their health now, what is remembered of it, and who is told."""

from contextlib import closing
from datetime import UTC, datetime

from app.config import Settings
from app.database.database import Connection, Database
from app.database.live_database import AnyDatabase
from app.observability import sentry
from app.observability.severity import Level
from app.repositories import server_activity
from app.repositories import whatsapp_all_companies as overview
from app.whatsapp.health import Overview, SalonHealth, Thresholds, judge
from app.whatsapp.retention import Retention
from app.whatsapp.session_store import TypeStatistics

PATIENCE = 10_000  # milliseconds for a statement; probes wait less


def observe(database: AnyDatabase, settings: Settings, company_id: int | None = None) -> Overview:
    """Look at all salons (or one), over a connection of its own; report each that has turned critical.

    Raises psycopg's errors.
    """

    def attempt(live: Database) -> Overview:
        with closing(live.connect_alone(PATIENCE)) as connection:
            seen = _look(connection, settings, company_id)
            if not server_activity.is_read_only(connection):  # what cannot be noted can still be seen
                _remember(connection, seen)
                _report(connection, seen)
        return seen

    return database.follow(attempt)


def _look(connection: Connection, settings: Settings, company_id: int | None) -> Overview:
    retention, limits = Retention.of(settings), Thresholds.of(settings)
    keys: dict[int, dict[str, TypeStatistics]] = {}
    last: dict[int, datetime] = {}
    expiring: dict[str, bool] = {}
    for company, key_type, total, expired, written in overview.count_keys(connection, company_id):
        if key_type not in expiring:
            expiring[key_type] = retention.expires(key_type)
        statistics = TypeStatistics(total, expired if expiring[key_type] else 0)
        keys.setdefault(company, {})[key_type] = statistics
        last[company] = max(written, last.get(company, written))
    now = datetime.now(UTC)
    return Overview(
        now,
        limits,
        {
            known.company_id: judge(
                known, keys.get(known.company_id, {}), last.get(known.company_id), limits, now
            )
            for known in overview.companies(connection, company_id)
        },
    )


def _remember(connection: Connection, seen: Overview) -> None:
    """Later, "fewer sessions" is only a warning where there were enough of them."""
    enough = seen.thresholds.min_sessions
    most = {
        salon.company_id: salon.sessions
        for salon in seen.salons.values()
        if salon.known.most_sessions < enough <= salon.sessions
    }
    overview.note_most_sessions(connection, most)


def _report(connection: Connection, seen: Overview) -> None:
    """One message for each episode, whichever process notices it first."""

    def is_critical(salon: SalonHealth) -> bool:
        return salon.is_paired and salon.level is Level.CRITICAL

    new = [
        salon.company_id
        for salon in seen.salons.values()
        if is_critical(salon) and salon.known.critical_since is None
    ]
    for company_id in overview.begin_episodes(connection, new):
        reasons = [f.reason for f in seen.salons[company_id].findings if f.level is Level.CRITICAL]
        sentry.message(
            f"The WhatsApp session of company {company_id} is critical: {', '.join(reasons)}",
            company_id=company_id,
        )
    over = [
        salon.company_id
        for salon in seen.salons.values()
        if salon.known.critical_since is not None and not is_critical(salon)
    ]
    overview.end_episodes(connection, over)
