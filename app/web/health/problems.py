"""Problems and remedies at the head of the status page, derived from the check results."""

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

POOL_HIGH_SHARE = 0.8  # connections in use, as a share of the pool's maximum
SERVER_HIGH_SHARE = 0.9  # open connections, as a share of max_connections without the reserved ones
LONG_TRANSACTION = timedelta(minutes=1)
RECENT_WINDOW = timedelta(minutes=10)  # for slow queries
POOL_HIGH_WINDOW = timedelta(seconds=30)  # the pool must be nearly full throughout this time
MIN_SAMPLES = 3  # samples of the pool that POOL_HIGH_WINDOW must contain
MAX_LISTED = 3  # company ids in one message


class ServiceState(IntEnum):
    """State of the service; higher is worse."""

    WELL = 0
    ATTENTION = 1
    DOWN = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """A problem and its remedy."""

    state: ServiceState
    message: str
    remedy: str


DATABASE = {
    DatabaseStatus.UNREACHABLE: Problem(
        ServiceState.DOWN,
        "The database does not answer.",
        "Check that PostgreSQL runs and has disk space; the service's log contains the connection error."
        " The service reconnects by itself and needs no restart.",
    ),
    DatabaseStatus.BEHIND: Problem(
        ServiceState.DOWN,
        "The database schema is older than this release.",
        "Run `alembic upgrade head`; until then this process is not ready.",
    ),
    DatabaseStatus.UNKNOWN: Problem(
        ServiceState.DOWN,
        "The database schema is unknown to this release.",
        "Check that DATABASE_URL names the right database, and whether a newer release has migrated it.",
    ),
}

READ_ONLY = Problem(
    ServiceState.DOWN,
    "The database is read-only: writes fail.",
    "The server is a standby that was not promoted, or `default_transaction_read_only` is on: providers set"
    " it when the disk is full. The service needs no restart.",
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
    """Return all problems, the worst first.

    Args:
        shutting_down: The process has received SIGTERM.
        database_status: Result of the database check.
        pools: Samples of the last POOL_HIGH_WINDOW, oldest first; the last one is current.
        delta: Change of the metrics during RECENT_WINDOW, or None if there is one sample only.
        installation: State of the server, syncs and backups, or None if it could not be read in time.
        whatsapp: Health of the WhatsApp sessions, or None if it could not be read in time.
        slow: Recent slow queries.
        backups: Ages of the last backup and the last drill.
        transfer: State of the transfer, or None if no transfer is configured or it could not be read.
    """
    found: list[Problem] = []
    if shutting_down:
        found.append(
            Problem(ServiceState.ATTENTION, "This process is shutting down.", "Another process takes over.")
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
            "See the slow queries below. A larger pool helps only if the server has free connections.",
        )
    elif len(pools) >= MIN_SAMPLES and all(
        each.pool_in_use > POOL_HIGH_SHARE * each.pool_max for each in pools
    ):
        # One full sample is no problem: a pool of three is full whenever three requests coincide.
        yield Problem(
            ServiceState.ATTENTION, f"The pool stays nearly full: {use}.", "See the slow queries below."
        )


def _request_problems(delta: MetricSnapshot | None, slow: Sequence[SlowQuery]) -> Iterator[Problem]:
    if delta is not None and delta.failures:
        total = sum(delta.failures.values())
        kinds = ", ".join(
            f"{count:.0f} {component}: {code}" for (component, code), count in sorted(delta.failures.items())
        )
        text = f"{total:.0f} {_plural(total, 'failure')} in the last ten minutes ({kinds})."
        yield Problem(ServiceState.ATTENTION, text, "Each failure is in Sentry and in the log.")
    recent = sum(datetime.now(UTC) - datetime.fromisoformat(query.at) < RECENT_WINDOW for query in slow)
    if recent:
        text = f"{recent} slow {_plural(recent, 'query', 'queries')} in the last ten minutes."
        yield Problem(ServiceState.ATTENTION, text, "See the list below.")


def _server_problems(installation: Installation | None) -> Iterator[Problem]:
    if installation is None:
        yield Problem(
            ServiceState.ATTENTION, "The server's statistics could not be read in time.", "See the log."
        )
        return
    server = installation.server
    if server.is_read_only:
        yield READ_ONLY
    if server.connections > SERVER_HIGH_SHARE * (server.max_connections - server.reserved):
        yield Problem(
            ServiceState.ATTENTION,
            f"The server is nearly out of connections: {server.connections} of {server.max_connections}.",
            "`frontdesk doctor` shows how many connections this installation may use.",
        )
    for program in installation.sessions:
        start = program.oldest_transaction_start
        if start is not None and datetime.now(UTC) - start > LONG_TRANSACTION:
            minutes = int((datetime.now(UTC) - start).total_seconds() // 60)
            text = f"{program.program} has had a transaction open for {minutes} min."
            yield Problem(
                ServiceState.ATTENTION,
                text,
                "See pg_stat_activity and pg_blocking_pids for the lock it waits for.",
            )
    unhealthy = [run.company_id for run, state in installation.syncs if not state.is_healthy]
    if unhealthy:
        text = f"The last sync of {_companies(unhealthy)} did not succeed."
        yield Problem(
            ServiceState.ATTENTION, text, "`frontdesk sync status` shows the reason; then run the sync again."
        )


def _whatsapp_problems(whatsapp: WhatsAppHealth | None) -> Iterator[Problem]:
    if whatsapp is None:
        yield Problem(
            ServiceState.ATTENTION, "The WhatsApp sessions could not be read in time.", "See the log."
        )
        return
    for level in (Severity.CRITICAL, Severity.WARNING):
        salons = [salon for salon in whatsapp.paired if salon.level is level]
        if salons:
            text = f"WhatsApp of {_companies([salon.company_id for salon in salons])}: {level}."
            yield Problem(ServiceState.ATTENTION, text, _whatsapp_remedy(salons))


def _backup_problems(backups: Sequence[Freshness]) -> Iterator[Problem]:
    for age in backups:
        if age.is_overdue or age.is_missing:
            text = str(age)
            yield Problem(ServiceState.ATTENTION, f"{text[0].upper()}{text[1:]}.", age.remedy)


def _whatsapp_remedy(salons: list[SalonHealth]) -> str:
    return salons[0].problems[0].remedy if len(salons) == 1 else "See the list of salons below."


def _companies(ids: Sequence[int]) -> str:
    if len(ids) > MAX_LISTED:
        return f"{len(ids)} companies"
    return f"{_plural(len(ids), 'company', 'companies')} {', '.join(map(str, ids))}"


def _plural(number: float, singular: str, plural: str | None = None) -> str:
    return singular if number == 1 else plural or f"{singular}s"
