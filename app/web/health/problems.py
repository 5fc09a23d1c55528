"""What is wrong, from what was seen: the sentences at the head of the status page, the worst first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from app.backup.freshness import Age
from app.observability.metric_snapshot import Snapshot
from app.observability.severity import Level
from app.observability.slow_queries import SlowQuery
from app.transfer.health import TransferHealth
from app.web.health.database_check import Verdict
from app.web.health.installation_check import Installation
from app.whatsapp.health import Overview, SalonHealth

POOL_HIGH = 0.8  # of the connections in use
SERVER_HIGH = 0.9  # of those that the server has for everybody
LONG = timedelta(minutes=1)  # for a transaction to be open
RECENT = timedelta(minutes=10)
LASTING = timedelta(seconds=30)  # for a pool to be full
SEEN = 3  # looks in that time
NAMED = 3  # companies in one sentence


class State(IntEnum):
    """The greater, the worse."""

    WELL = 0
    ATTENTION = 1
    DOWN = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do."""

    state: State
    what: str
    advice: str


DATABASE = {
    Verdict.UNREACHABLE: Problem(
        State.DOWN,
        "The database does not answer.",
        "See whether PostgreSQL runs and has disk space; the service's log says why it could not connect."
        " Nothing here needs a restart: work goes on when it is back.",
    ),
    Verdict.BEHIND: Problem(
        State.DOWN,
        "The database's schema is older than this code.",
        "Run `alembic upgrade head`; until then this process is not ready.",
    ),
    Verdict.UNKNOWN: Problem(
        State.DOWN,
        "The database's schema is not one that this code knows.",
        "See whether DATABASE_URL names the right database, and whether a newer release has migrated it.",
    ),
}

READ_ONLY = Problem(
    State.DOWN,
    "The database is read-only: nothing can be written.",
    "It is a standby that nobody promoted, or was set so (`default_transaction_read_only`): providers do that"
    " when the disk is full. Nothing here needs a restart.",
)


def problems(
    shutting_down: bool,
    verdict: Verdict,
    pools: Sequence[Snapshot],
    happened: Snapshot | None,
    installation: Installation | None,
    whatsapp: Overview | None,
    slow: Sequence[SlowQuery],
    backups: Sequence[Age],
    transfer: TransferHealth | None,
) -> list[Problem]:
    """All that is wrong.

    `pools` is how the pool was in the last LASTING, now at the end; `happened` what the last minutes brought.
    """
    found: list[Problem] = []
    if shutting_down:
        found.append(Problem(State.ATTENTION, "This process is shutting down.", "Another one takes over."))
    if verdict in DATABASE:
        found.append(DATABASE[verdict])
    found += _of_pool(pools)
    found += _of_requests(happened, slow)
    if verdict is not Verdict.UNREACHABLE:
        found += _of_server(installation)
        found += _of_whatsapp(whatsapp)
        found += _of_backups(backups)
    if transfer is not None:
        found += [Problem(State.ATTENTION, each.what, each.advice) for each in transfer.findings]
    return sorted(found, key=lambda problem: -problem.state)


def _of_pool(pools: Sequence[Snapshot]) -> Iterator[Problem]:
    pool = pools[-1]
    use = f"{pool.pool_in_use} of {pool.pool_max} connections in use"
    if pool.pool_waiting:
        yield Problem(
            State.ATTENTION,
            f"The pool is exhausted: {use}, {pool.pool_waiting} waiting.",
            "Look for what is slow below. More connections help only where the server has them to spare.",
        )
    elif len(pools) >= SEEN and all(each.pool_in_use > POOL_HIGH * each.pool_max for each in pools):
        # Three connections are all in use whenever three things happen at once.
        yield Problem(State.ATTENTION, f"The pool stays nearly full: {use}.", "Look for what is slow below.")


def _of_requests(happened: Snapshot | None, slow: Sequence[SlowQuery]) -> Iterator[Problem]:
    if happened is not None and happened.failures:
        total = sum(happened.failures.values())
        kinds = ", ".join(
            f"{count:.0f} {component}: {code}"
            for (component, code), count in sorted(happened.failures.items())
        )
        text = f"{total:.0f} {_plural(total, 'failure')} in the last minutes ({kinds})."
        yield Problem(State.ATTENTION, text, "Each one is in Sentry and in the log.")
    recent = sum(datetime.now(UTC) - datetime.fromisoformat(query.at) < RECENT for query in slow)
    if recent:
        text = f"{recent} slow {_plural(recent, 'query', 'queries')} in the last ten minutes."
        yield Problem(State.ATTENTION, text, "They are listed below.")


def _of_server(installation: Installation | None) -> Iterator[Problem]:
    if installation is None:
        yield Problem(State.ATTENTION, "The server's figures did not come in time.", "See the log.")
        return
    server = installation.server
    if server.is_read_only:
        yield READ_ONLY
    if server.connections > SERVER_HIGH * (server.max_connections - server.reserved):
        yield Problem(
            State.ATTENTION,
            f"The server is nearly out of connections: {server.connections} of {server.max_connections}.",
            "`frontdesk doctor` shows how many this installation may use.",
        )
    for each in installation.sessions:
        if each.oldest is not None and datetime.now(UTC) - each.oldest > LONG:
            minutes = int((datetime.now(UTC) - each.oldest).total_seconds() // 60)
            text = f"{each.program} has had a transaction open for {minutes} min."
            yield Problem(State.ATTENTION, text, "See what it waits for: pg_stat_activity, pg_blocking_pids.")
    unwell = [run.company_id for run, state in installation.syncs if not state.is_well]
    if unwell:
        text = f"The last sync of {_companies(unwell)} did not end well."
        yield Problem(State.ATTENTION, text, "`frontdesk sync status` shows why; run it again.")


def _of_whatsapp(whatsapp: Overview | None) -> Iterator[Problem]:
    if whatsapp is None:
        yield Problem(State.ATTENTION, "The WhatsApp sessions' figures did not come in time.", "See the log.")
        return
    for level in (Level.CRITICAL, Level.WARNING):
        sick = [salon for salon in whatsapp.paired if salon.level is level]
        if sick:
            text = f"WhatsApp of {_companies([salon.company_id for salon in sick])}: {level}."
            yield Problem(State.ATTENTION, text, _advice(sick))


def _of_backups(backups: Sequence[Age]) -> Iterator[Problem]:
    for age in backups:
        if age.is_overdue or age.is_missed:
            text = str(age)
            yield Problem(State.ATTENTION, f"{text[0].upper()}{text[1:]}.", age.advice)


def _advice(sick: list[SalonHealth]) -> str:
    return sick[0].findings[0].advice if len(sick) == 1 else "Each one is listed below."


def _companies(ids: Sequence[int]) -> str:
    if len(ids) > NAMED:
        return f"{len(ids)} companies"
    return f"{_plural(len(ids), 'company', 'companies')} {', '.join(map(str, ids))}"


def _plural(number: float, one: str, many: str | None = None) -> str:
    return one if number == 1 else many or f"{one}s"
