"""What is wrong, from what was seen: the sentences at the head of the status page, the worst first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from app.backup.freshness import Freshness
from app.observability.metric_snapshot import MetricSnapshot
from app.observability.severity import Severity
from app.observability.slow_queries import SlowQuery
from app.transfer.health import TransferHealth
from app.web.health.database_check import DatabaseStatus
from app.web.health.installation_check import Installation
from app.whatsapp.health import SalonHealth, WhatsAppHealth

POOL_HIGH_SHARE = 0.8  # of the connections in use
SERVER_HIGH_SHARE = 0.9  # of those that the server has for everybody
LONG_TRANSACTION = timedelta(minutes=1)  # for a transaction to be open
RECENT_WINDOW = timedelta(minutes=10)
POOL_HIGH_WINDOW = timedelta(seconds=30)  # for a pool to be full
MIN_SAMPLES = 3  # looks in that time
MAX_LISTED = 3  # companies in one sentence


class ServiceState(IntEnum):
    """The greater, the worse."""

    WELL = 0
    ATTENTION = 1
    DOWN = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do."""

    state: ServiceState
    message: str
    remedy: str


DATABASE = {
    DatabaseStatus.UNREACHABLE: Problem(
        ServiceState.DOWN,
        "The database does not answer.",
        "See whether PostgreSQL runs and has disk space; the service's log says why it could not connect."
        " Nothing here needs a restart: work goes on when it is back.",
    ),
    DatabaseStatus.BEHIND: Problem(
        ServiceState.DOWN,
        "The database's schema is older than this code.",
        "Run `alembic upgrade head`; until then this process is not ready.",
    ),
    DatabaseStatus.UNKNOWN: Problem(
        ServiceState.DOWN,
        "The database's schema is not one that this code knows.",
        "See whether DATABASE_URL names the right database, and whether a newer release has migrated it.",
    ),
}

READ_ONLY = Problem(
    ServiceState.DOWN,
    "The database is read-only: nothing can be written.",
    "It is a standby that nobody promoted, or was set so (`default_transaction_read_only`): providers do that"
    " when the disk is full. Nothing here needs a restart.",
)


def find_problems(
    shutting_down: bool,
    database_status: DatabaseStatus,
    pools: Sequence[MetricSnapshot],
    delta: MetricSnapshot | None,
    installation: Installation | None,
    whatsapp: WhatsAppHealth | None,
    slow: Sequence[SlowQuery],
    backups: Sequence[Freshness],
    transfer: TransferHealth | None,
) -> list[Problem]:
    """All that is wrong.

    `pools` is how the pool was in the last LASTING, now at the end; `delta` what the last minutes brought.
    """
    found: list[Problem] = []
    if shutting_down:
        found.append(
            Problem(ServiceState.ATTENTION, "This process is shutting down.", "Another one takes over.")
        )
    if database_status in DATABASE:
        found.append(DATABASE[database_status])
    found += _pool_problems(pools)
    found += _request_problems(delta, slow)
    if database_status is not DatabaseStatus.UNREACHABLE:
        found += _server_problems(installation)
        found += _whatsapp_problems(whatsapp)
        found += _backup_problems(backups)
    if transfer is not None:
        found += [Problem(ServiceState.ATTENTION, each.message, each.remedy) for each in transfer.problems]
    return sorted(found, key=lambda problem: -problem.state)


def _pool_problems(pools: Sequence[MetricSnapshot]) -> Iterator[Problem]:
    pool = pools[-1]
    use = f"{pool.pool_in_use} of {pool.pool_max} connections in use"
    if pool.pool_waiting:
        yield Problem(
            ServiceState.ATTENTION,
            f"The pool is exhausted: {use}, {pool.pool_waiting} waiting.",
            "Look for what is slow below. More connections help only where the server has them to spare.",
        )
    elif len(pools) >= MIN_SAMPLES and all(
        each.pool_in_use > POOL_HIGH_SHARE * each.pool_max for each in pools
    ):
        # Three connections are all in use whenever three things happen at once.
        yield Problem(
            ServiceState.ATTENTION, f"The pool stays nearly full: {use}.", "Look for what is slow below."
        )


def _request_problems(happened: MetricSnapshot | None, slow: Sequence[SlowQuery]) -> Iterator[Problem]:
    if happened is not None and happened.failures:
        total = sum(happened.failures.values())
        kinds = ", ".join(
            f"{count:.0f} {component}: {code}"
            for (component, code), count in sorted(happened.failures.items())
        )
        text = f"{total:.0f} {_plural(total, 'failure')} in the last minutes ({kinds})."
        yield Problem(ServiceState.ATTENTION, text, "Each one is in Sentry and in the log.")
    recent = sum(datetime.now(UTC) - datetime.fromisoformat(query.at) < RECENT_WINDOW for query in slow)
    if recent:
        text = f"{recent} slow {_plural(recent, 'query', 'queries')} in the last ten minutes."
        yield Problem(ServiceState.ATTENTION, text, "They are listed below.")


def _server_problems(installation: Installation | None) -> Iterator[Problem]:
    if installation is None:
        yield Problem(ServiceState.ATTENTION, "The server's figures did not come in time.", "See the log.")
        return
    server = installation.server
    if server.is_read_only:
        yield READ_ONLY
    if server.connections > SERVER_HIGH_SHARE * (server.max_connections - server.reserved):
        yield Problem(
            ServiceState.ATTENTION,
            f"The server is nearly out of connections: {server.connections} of {server.max_connections}.",
            "`frontdesk doctor` shows how many this installation may use.",
        )
    for each in installation.sessions:
        if (
            each.oldest_transaction_start is not None
            and datetime.now(UTC) - each.oldest_transaction_start > LONG_TRANSACTION
        ):
            minutes = int((datetime.now(UTC) - each.oldest_transaction_start).total_seconds() // 60)
            text = f"{each.program} has had a transaction open for {minutes} min."
            yield Problem(
                ServiceState.ATTENTION, text, "See what it waits for: pg_stat_activity, pg_blocking_pids."
            )
    unwell = [run.company_id for run, state in installation.syncs if not state.is_healthy]
    if unwell:
        text = f"The last sync of {_companies(unwell)} did not end well."
        yield Problem(ServiceState.ATTENTION, text, "`frontdesk sync status` shows why; run it again.")


def _whatsapp_problems(whatsapp: WhatsAppHealth | None) -> Iterator[Problem]:
    if whatsapp is None:
        yield Problem(
            ServiceState.ATTENTION, "The WhatsApp sessions' figures did not come in time.", "See the log."
        )
        return
    for level in (Severity.CRITICAL, Severity.WARNING):
        sick = [salon for salon in whatsapp.paired if salon.level is level]
        if sick:
            text = f"WhatsApp of {_companies([salon.company_id for salon in sick])}: {level}."
            yield Problem(ServiceState.ATTENTION, text, _whatsapp_remedy(sick))


def _backup_problems(backups: Sequence[Freshness]) -> Iterator[Problem]:
    for age in backups:
        if age.is_overdue or age.is_missing:
            text = str(age)
            yield Problem(ServiceState.ATTENTION, f"{text[0].upper()}{text[1:]}.", age.remedy)


def _whatsapp_remedy(salons: list[SalonHealth]) -> str:
    return salons[0].problems[0].remedy if len(salons) == 1 else "Each one is listed below."


def _companies(ids: Sequence[int]) -> str:
    if len(ids) > MAX_LISTED:
        return f"{len(ids)} companies"
    return f"{_plural(len(ids), 'company', 'companies')} {', '.join(map(str, ids))}"


def _plural(number: float, one: str, many: str | None = None) -> str:
    return one if number == 1 else many or f"{one}s"
