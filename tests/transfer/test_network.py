"""Tests of commands whose network to the servers is cut, drops packets or is slow: no change is lost."""

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

pytestmark = pytest.mark.xdist_group("network")  # all tests share one pair of servers

KEEPALIVES = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "tcp_user_timeout": 2000}
LOST_WITHIN = 2.0  # seconds until the keepalives above detect a lost network
ROWS = 5_000


@pytest.fixture
def copied_sides(distant: RemoteSides) -> RemoteSides:
    """Two sides after the copy, with one change in legacy's change log."""
    with psycopg.connect(distant.direct.legacy.url, autocommit=True) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        start(distant.direct)
        copy_by_change_log(distant.direct)
        connection.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    return distant


@pytest.fixture
def short_network_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both ends of a connection detect a lost network in two seconds instead of half a minute."""
    monkeypatch.setattr(transfer_sides, "KEEPALIVES", KEEPALIVES)
    monkeypatch.setattr(transfer_sides, "PROBE_AFTER_SECONDS", LOST_WITHIN)
    monkeypatch.setattr(transfer_sides, "CONNECT_TIMEOUT_SECONDS", 2.0)
    for name, value in KEEPALIVES.items():
        server_setting = name.replace("keepalives", "tcp_keepalives")
        assert server_setting in transfer_sides._SESSION_SETTINGS
        monkeypatch.setitem(transfer_sides._SESSION_SETTINGS, server_setting, str(value))


# Network faults during a switch


@pytest.mark.parametrize("fault", [CUT, BLACK_HOLE], ids=["cut", "black hole"])
def test_a_command_lost_after_closing_blocks_writers_no_longer_than_max_pause(
    copied_sides: RemoteSides, fault: NetworkFault
) -> None:
    copied_sides.commands_to_legacy.inject_fault_on(b"frontdesk_transfer.close(", fault)
    attempt = SwitchAttempt(copied_sides.commands, "primary", max_pause=1.0)
    wait_until(lambda: copied_sides.commands_to_legacy.have_all_faults_fired)
    waited = longest_wait(copied_sides.direct.legacy, attempt, at_most=5)
    copied_sides.heal()
    attempt.wait()
    assert waited < 1.5  # max_pause, and a round trip
    assert isinstance(attempt.error, FrontdeskError)
    assert "opens by itself 1 s later" in attempt.error.message
    switch_with_retries(copied_sides.commands, "primary")
    assert_live(copied_sides.direct, "primary")


Step = tuple[str, bytes, TriggerPoint, NetworkFault]
AT_SOURCE = (
    b"frontdesk_transfer.marks",
    b"frontdesk_transfer.close(",
    b"frontdesk_transfer.hand_over(",
    b"COPY",
)
AT_TARGET = (b"pg_advisory_xact_lock", b"pg_temp", b"COMMIT", b"frontdesk_transfer.open(", b"setval")
QUICK_STEPS: list[Step] = [
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
    "steps", [pytest.param(QUICK_STEPS, id="few"), pytest.param(STEPS, id="all", marks=pytest.mark.full)]
)
def test_a_switch_with_a_network_fault_at_any_step_succeeds_when_it_is_run_again(
    copied_sides: RemoteSides, steps: list[Step]
) -> None:
    to: SideName = "primary"
    for step in steps:
        end, pattern, moment, fault = step
        with psycopg.connect(
            copied_sides.direct.other(copied_sides.direct.named(to)).url, autocommit=True
        ) as connection:
            connection.execute("INSERT INTO clients (company_id, yclients_id, name) SELECT 1, n, 'x' FROM"
                               " (SELECT max(yclients_id) + 1 AS n FROM clients) AS next")  # fmt: skip
        lines = dict(zip(("legacy", "primary"), copied_sides.of_commands, strict=True))
        line = lines[to if end == "target" else "legacy" if to == "primary" else "primary"]
        line.inject_fault_on(pattern, fault, moment)
        attempt = SwitchAttempt(copied_sides.commands, to, max_pause=1.0)
        wait_until(lambda line=line: line.have_all_faults_fired)
        time.sleep(0.3)
        copied_sides.heal()
        attempt.wait()
        switch_with_retries(copied_sides.commands, to)
        assert_live(copied_sides.direct, to)
        to = "legacy" if to == "primary" else "primary"


def test_another_relay_completes_a_switch_that_loses_the_new_side_after_the_hand_over(
    copied_sides: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.transfer.relay.relay.ABANDONED_AFTER_SECONDS", 0.3)
    stop = threading.Event()
    relaying = threading.Thread(target=relay, args=(copied_sides.direct, stop))
    relaying.start()
    try:
        copied_sides.commands_to_primary.inject_fault_on(b"frontdesk_transfer.open(", BLACK_HOLE, "request")
        attempt = SwitchAttempt(copied_sides.commands, "primary")
        wait_until(lambda: copied_sides.commands_to_primary.have_all_faults_fired)
        wait_until(lambda: read_status(copied_sides.direct).live == "primary")
        copied_sides.heal()
        attempt.wait()
    finally:
        stop.set()
        relaying.join()
    assert attempt.error is None
    assert_live(copied_sides.direct, "primary")


def test_a_switch_over_a_slow_network_finishes_within_max_pause(copied_sides: RemoteSides) -> None:
    for line in copied_sides.of_commands:
        line.slow(0.002)
    attempt = SwitchAttempt(copied_sides.commands, "primary", max_pause=5.0)
    attempt.wait()
    assert attempt.report is not None, attempt.error
    assert attempt.report.pause is not None
    assert attempt.report.pause <= 5
    assert_live(copied_sides.direct, "primary")


def test_a_switch_whose_network_slows_down_after_closing_aborts_and_the_old_side_opens(
    copied_sides: RemoteSides,
) -> None:
    copied_sides.commands_to_legacy.inject_fault_on(b"frontdesk_transfer.close(", SLOW)
    attempt = SwitchAttempt(copied_sides.commands, "primary", max_pause=1.0)
    waited = longest_wait(copied_sides.direct.legacy, attempt, at_most=10)
    assert isinstance(attempt.error, AbortedError)
    assert waited < 1.5
    assert_live(copied_sides.direct, "legacy")


def test_a_switch_that_aborts_because_of_high_latency_reports_the_latency(
    copied_sides: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "advance_statements", lambda *_: ["SELECT pg_sleep(10)"])
    for line in copied_sides.of_commands:
        line.slow(0.02)
    attempt = SwitchAttempt(copied_sides.commands, "primary", max_pause=0.6)
    attempt.wait()
    assert isinstance(attempt.error, AbortedError)
    assert "The latency is high: a round trip takes" in attempt.error.message
    assert_live(copied_sides.direct, "legacy")


def test_a_switch_with_too_much_latency_is_rejected_before_writes_pause(copied_sides: RemoteSides) -> None:
    for line in copied_sides.of_commands:
        line.slow(0.03)
    attempt = SwitchAttempt(copied_sides.commands, "primary", max_pause=0.3)
    longest_wait(copied_sides.direct.legacy, attempt, at_most=60)
    assert isinstance(attempt.error, ConflictError)
    assert "too far from here" in attempt.error.message
    assert "or with --max-pause 0." in attempt.error.message  # 0.6 or more
    assert_live(copied_sides.direct, "legacy")


def test_another_relay_continues_after_one_is_disconnected_during_an_apply_cycle(
    copied_sides: RemoteSides, short_network_timeouts: None
) -> None:
    """A server waits for the rest of a message without limit: only TCP keepalives detect the lost client."""
    _fill(copied_sides)
    copied_sides.commands_to_primary.inject_fault_on(b"pg_temp", BLACK_HOLE, 50_000)
    lost = threading.Thread(target=_drain_and_lose_side, args=(copied_sides.commands,))
    lost.start()
    wait_until(lambda: copied_sides.commands_to_primary.have_all_faults_fired)
    wait_until(lambda: _drains(copied_sides.direct))
    assert_live(copied_sides.direct, "legacy")
    lost.join()


def _drain_and_lose_side(sides: Sides) -> None:
    with pytest.raises(SideLostError):
        drain(sides)


def _drains(sides: Sides) -> bool:
    try:
        drain(sides)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


# Commands whose network is lost permanently


@pytest.fixture
def run(
    distant: RemoteSides, short_network_timeouts: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Return a function that runs a `transfer` command whose connections go through the proxies."""
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
def test_a_command_without_network_ends_names_the_lost_side_and_succeeds_later(
    distant: RemoteSides,
    run: Callable[..., Result],
    command: tuple[str, ...],
    side: str,
    fault: NetworkFault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(distant.direct.legacy.url) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    # TCP keepalives detect a black hole; a mute line is detected only by a second connection.
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
    """Bring the transfer to a stage in which the command has work on both sides."""
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
    """Insert ROWS clients on legacy."""
    with psycopg.connect(distant.direct.legacy.url) as connection:
        connection.execute(
            "INSERT INTO clients (company_id, yclients_id, name) SELECT 1, last + n, 'Client'"
            " FROM (SELECT coalesce(max(yclients_id), 0) AS last FROM clients) AS present,"
            " generate_series(1, %s) AS n",
            (ROWS,),
        )
