"""The network between the commands and the servers is cut, falls silent or is slow: nothing is lost by it."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.errors import ConflictError, FrontdeskError, SideLostError
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import AbortedError
from app.transfer.protocol import endpoints as transfer_sides
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.status import read_status
from app.transfer.relay import sequences
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from tests.network import BLACK_HOLE, CUT, MUTE, SLOW, NetworkFault, TriggerPoint
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.transfer.distant import RemoteSides, SwitchAttempt, longest_wait
from tests.transfer.moving import assert_live, copy_by_change_log, switch_with_retries

pytestmark = pytest.mark.xdist_group("network")  # one pair of servers for all

KEEPALIVES = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "tcp_user_timeout": 2000}
LOST_WITHIN = 2.0  # seconds that these take to notice a lost network; a process of tests has more to do
ROWS = 5_000


@pytest.fixture
def moving(distant: RemoteSides) -> RemoteSides:
    """A move in which everything has been copied, and a change waits in the log."""
    with psycopg.connect(distant.direct.legacy.url, autocommit=True) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        start(distant.direct)
        copy_by_change_log(distant.direct)
        connection.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    return distant


@pytest.fixture
def noticing_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes half a minute takes two seconds here, on either end of a connection."""
    monkeypatch.setattr(transfer_sides, "KEEPALIVES", KEEPALIVES)
    monkeypatch.setattr(transfer_sides, "PROBE_AFTER_SECONDS", LOST_WITHIN)
    monkeypatch.setattr(transfer_sides, "CONNECT_TIMEOUT_SECONDS", 2.0)
    for name, value in KEEPALIVES.items():
        on_the_server = name.replace("keepalives", "tcp_keepalives")
        assert on_the_server in transfer_sides._SESSION_SETTINGS
        monkeypatch.setitem(transfer_sides._SESSION_SETTINGS, on_the_server, str(value))


# A switch that is hit


@pytest.mark.parametrize("fault", [CUT, BLACK_HOLE], ids=["cut", "black hole"])
def test_writers_wait_no_longer_than_allowed_for_a_command_that_is_lost_once_it_has_closed(
    moving: RemoteSides, fault: NetworkFault
) -> None:
    moving.commands_to_legacy.inject_fault_on(b"frontdesk_transfer.close(", fault)
    attempt = SwitchAttempt(moving.commands, "primary", max_pause=1.0)
    wait_until(lambda: moving.commands_to_legacy.have_all_faults_fired)
    waited = longest_wait(moving.direct.legacy, attempt, at_most=5)
    moving.heal()
    attempt.wait()
    assert waited < 1.5  # a second, and the way there and back
    assert isinstance(attempt.error, FrontdeskError)
    assert "opens by itself 1 s later" in attempt.error.message
    switch_with_retries(moving.commands, "primary")
    assert_live(moving.direct, "primary")


Step = tuple[str, bytes, TriggerPoint, NetworkFault]
AT_SOURCE = (
    b"frontdesk_transfer.marks",
    b"frontdesk_transfer.close(",
    b"frontdesk_transfer.hand_over(",
    b"COPY",
)
AT_TARGET = (b"pg_advisory_xact_lock", b"pg_temp", b"COMMIT", b"frontdesk_transfer.open(", b"setval")
MOST_TELLING: list[Step] = [
    ("source", b"frontdesk_transfer.close(", "answer", CUT),
    ("source", b"frontdesk_transfer.hand_over(", "answer", CUT),
    ("source", b"frontdesk_transfer.hand_over(", "request", BLACK_HOLE),
    ("target", b"COMMIT", "answer", CUT),
    ("target", b"frontdesk_transfer.open(", "answer", BLACK_HOLE),
]
MOMENTS: tuple[TriggerPoint, ...] = ("request", "answer")
STEPS: list[Step] = [
    (end, pattern, moment, fault)
    for end, patterns in (("source", AT_SOURCE), ("target", AT_TARGET))
    for pattern in patterns
    for moment in MOMENTS
    for fault in (CUT, BLACK_HOLE, MUTE)
]


@pytest.mark.parametrize(
    "steps", [pytest.param(MOST_TELLING, id="few"), pytest.param(STEPS, id="all", marks=pytest.mark.full)]
)
def test_a_switch_that_is_hit_at_any_step_goes_on_when_it_is_run_again(
    moving: RemoteSides, steps: list[Step]
) -> None:
    to: SideName = "primary"
    for step in steps:
        end, pattern, moment, fault = step
        with psycopg.connect(moving.direct.other(moving.direct.named(to)).url, autocommit=True) as connection:
            connection.execute("INSERT INTO clients (company_id, yclients_id, name) SELECT 1, n, 'x' FROM"
                               " (SELECT max(yclients_id) + 1 AS n FROM clients) AS next")  # fmt: skip
        lines = dict(zip(("legacy", "primary"), moving.of_commands, strict=True))
        line = lines[to if end == "target" else "legacy" if to == "primary" else "primary"]
        line.inject_fault_on(pattern, fault, moment)
        attempt = SwitchAttempt(moving.commands, to, max_pause=1.0)
        wait_until(lambda line=line: line.have_all_faults_fired)
        time.sleep(0.3)
        moving.heal()
        attempt.wait()
        switch_with_retries(moving.commands, to)
        assert_live(moving.direct, to)
        to = "legacy" if to == "primary" else "primary"


def test_a_switch_that_loses_the_new_side_once_it_has_handed_over_is_ended_by_a_relay_elsewhere(
    moving: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.transfer.relay.relay.ABANDONED_AFTER_SECONDS", 0.3)
    stop = threading.Event()
    relaying = threading.Thread(target=relay, args=(moving.direct, stop))
    relaying.start()
    try:
        moving.commands_to_primary.inject_fault_on(b"frontdesk_transfer.open(", BLACK_HOLE, "request")
        attempt = SwitchAttempt(moving.commands, "primary")
        wait_until(lambda: moving.commands_to_primary.have_all_faults_fired)
        wait_until(lambda: read_status(moving.direct).live == "primary")
        moving.heal()
        attempt.wait()
    finally:
        stop.set()
        relaying.join()
    assert attempt.error is None
    assert_live(moving.direct, "primary")


def test_a_switch_over_a_slow_network_gives_up_in_time_or_is_done_in_time(moving: RemoteSides) -> None:
    for line in moving.of_commands:
        line.slow(0.002)
    attempt = SwitchAttempt(moving.commands, "primary", max_pause=5.0)
    attempt.wait()
    assert attempt.report is not None, attempt.error
    assert attempt.report.pause is not None
    assert attempt.report.pause <= 5
    assert_live(moving.direct, "primary")


def test_a_switch_whose_network_becomes_slow_once_it_has_closed_gives_up_with_the_old_side_open(
    moving: RemoteSides,
) -> None:
    moving.commands_to_legacy.inject_fault_on(b"frontdesk_transfer.close(", SLOW)
    attempt = SwitchAttempt(moving.commands, "primary", max_pause=1.0)
    waited = longest_wait(moving.direct.legacy, attempt, at_most=10)
    assert isinstance(attempt.error, AbortedError)
    assert waited < 1.5
    assert_live(moving.direct, "legacy")


def test_a_switch_that_gives_up_far_from_the_servers_says_so(
    moving: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "advance_statements", lambda *_: ["SELECT pg_sleep(10)"])
    for line in moving.of_commands:
        line.slow(0.02)
    attempt = SwitchAttempt(moving.commands, "primary", max_pause=0.6)
    attempt.wait()
    assert isinstance(attempt.error, AbortedError)
    assert "It is far: a server answers after" in attempt.error.message
    assert_live(moving.direct, "legacy")


def test_a_switch_from_too_far_away_is_refused_before_anybody_has_to_wait(moving: RemoteSides) -> None:
    for line in moving.of_commands:
        line.slow(0.03)
    attempt = SwitchAttempt(moving.commands, "primary", max_pause=0.3)
    longest_wait(moving.direct.legacy, attempt, at_most=60)
    assert isinstance(attempt.error, ConflictError)
    assert "too far from here" in attempt.error.message
    assert "or with --max-pause 0." in attempt.error.message  # and 6, or more
    assert_live(moving.direct, "legacy")


def test_a_relay_that_is_lost_in_the_middle_of_a_round_lets_another_one_go_on(
    moving: RemoteSides, noticing_soon: None
) -> None:
    """The server waits for the rest of a message as long as it takes: only TCP tells that nobody is there."""
    _fill(moving)
    moving.commands_to_primary.inject_fault_on(b"pg_temp", BLACK_HOLE, 50_000)
    lost = threading.Thread(target=_drain_in_vain, args=(moving.commands,))
    lost.start()
    wait_until(lambda: moving.commands_to_primary.have_all_faults_fired)
    wait_until(lambda: _drains(moving.direct))
    assert_live(moving.direct, "legacy")
    lost.join()


def _drain_in_vain(sides: Sides) -> None:
    with pytest.raises(SideLostError):
        drain(sides)


def _drains(sides: Sides) -> bool:
    try:
        drain(sides)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


# Commands whose network is lost for good


@pytest.fixture
def run(distant: RemoteSides, noticing_soon: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command along the lines."""
    monkeypatch.setenv("LEGACY_DATABASE_URL", distant.commands.legacy.url)
    monkeypatch.setenv("DATABASE_URL", distant.commands.primary.url)
    return lambda *arguments: CliRunner().invoke(main, ["transfer", *arguments])


COMMANDS = {
    ("plan",): b"pg_class",
    ("start",): b"CREATE OR REPLACE TRIGGER",
    ("copy",): b"COPY",
    ("relay", "--once"): b"frontdesk_transfer.side",
    ("verify",): b"sha256",
    ("repair",): b"sha256",
    ("status",): b"frontdesk_transfer.marks",
    ("cutover",): b"frontdesk_transfer.marks",
    ("rollback",): b"frontdesk_transfer.marks",
    ("finish",): b"DROP TRIGGER",
}
QUICK = (("copy", "legacy", BLACK_HOLE), ("verify", "primary", MUTE))


@pytest.mark.parametrize(
    ("command", "side", "fault"),
    [
        pytest.param(
            command, side, fault, marks=() if (command[0], side, fault) in QUICK else pytest.mark.full
        )
        for command in COMMANDS
        for side in ("legacy", "primary")
        for fault in (BLACK_HOLE, MUTE)
    ],
    ids=lambda value: "black hole" if value is BLACK_HOLE else "mute" if value is MUTE else "".join(value),
)
def test_a_command_whose_network_is_lost_ends_by_itself_says_where_and_goes_on_later(
    distant: RemoteSides,
    run: Callable[..., Result],
    command: tuple[str, ...],
    side: str,
    fault: NetworkFault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(distant.direct.legacy.url) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    # Each is to be noticed in its own way: the one by TCP, the other by asking.
    monkeypatch.setattr(transfer_sides, "PROBE_AFTER_SECONDS", 60 if fault is BLACK_HOLE else LOST_WITHIN)
    _prepare(command[0], distant)
    line = distant.commands_to_legacy if side == "legacy" else distant.commands_to_primary
    line.inject_fault_on(COMMANDS[command], fault)
    began = time.monotonic()
    result = run(*command)
    assert line.have_all_faults_fired, result.output
    assert time.monotonic() - began < WAIT_TIMEOUT_SECONDS
    line.heal()
    assert result.exit_code == 3, result.output
    assert side in result.output.splitlines()[-1]
    result = run(*command)
    assert result.exit_code == 0, result.output


def _prepare(command: str, distant: RemoteSides) -> None:
    """Bring a move to where the command has something to do on both sides."""
    _fill(distant)
    if command in ("plan", "start"):
        return
    start(distant.direct)
    if command == "copy":
        return
    copy(distant.direct)
    if command == "rollback":
        switch_with_retries(distant.direct, "primary")
    elif command in ("relay", "cutover"):
        _fill(distant)


def _fill(distant: RemoteSides) -> None:
    with psycopg.connect(distant.direct.legacy.url) as connection:
        connection.execute(
            "INSERT INTO clients (company_id, yclients_id, name) SELECT 1, last + n, 'Client'"
            " FROM (SELECT coalesce(max(yclients_id), 0) AS last FROM clients) AS present,"
            " generate_series(1, %s) AS n",
            (ROWS,),
        )
