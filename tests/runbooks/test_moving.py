"""The commands in docs/moving-databases.md, run in order, print the output that the page shows."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.transfer.protocol import fencing
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.relay.relay import relay
from tests.runbooks.following import Terminal, run_page
from tests.servers import execute

PROVIDER = (
    "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')",
    "INSERT INTO clients (company_id, yclients_id, name) SELECT 1, n, 'A' FROM generate_series(1, 999) AS n",
    "CREATE SCHEMA auth",
    "CREATE TABLE auth.users (id uuid PRIMARY KEY)",
    "CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
    "CREATE ROLE anon",
    "GRANT SELECT ON clients TO anon",
)


@pytest.fixture
def expired_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the first pause expire, as on a busy machine; the runner then repeats the command."""
    hand_over, errors = fencing.hand_over, [fencing.PauseExpiredError()]

    def fail_once(*arguments: Any) -> fencing.HandedOver:
        if errors:
            raise errors.pop()
        return hand_over(*arguments)

    monkeypatch.setattr(fencing, "hand_over", fail_once)
    yield
    assert not errors


@pytest.mark.usefixtures("expired_pause")
def test_the_page_on_moving_databases_leads_through_cutover_and_rollback(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = Sides(Side("legacy", new_database()), Side("primary", new_database()))
    for name, value in {
        "LEGACY_DATABASE_URL": sides.legacy.url,
        "DATABASE_URL": sides.primary.url,
        "BACKUP_ADDRESS": "/nowhere",
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    stop = threading.Event()
    relaying = threading.Thread(target=relay, args=(sides, stop))

    def end() -> None:
        stop.set()
        relaying.join()

    execute(sides.legacy.url, *PROVIDER)
    units = {"start frontdesk-transfer-relay": relaying.start, "stop frontdesk-transfer-relay": end}
    try:
        run_page("../moving-databases.md", Terminal(units=units))
    finally:
        if relaying.is_alive():
            end()
        execute(sides.legacy.url, "DROP OWNED BY anon", "DROP ROLE anon")
