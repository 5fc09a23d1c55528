"""P11: writing and reading a salon's WhatsApp keys, compared with one statement per key."""

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.environment import COMPANY, Environment
from benchmarks.harness import Benchmark, Peer, Target, stopwatch

KEYS = 728
Keys = dict[str, Any]


def one_call(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P11: keys per second, all keys in one call."""
    store = environment.desk.company(COMPANY).whatsapp
    peer = COMPANY + 1
    environment.desk.company(peer).upsert_company({"title": "Peer"}).unwrap()
    connection = environment.resources.enter_context(psycopg.connect(environment.url, autocommit=True))
    rounds = _rounds()

    def ours() -> float:
        keys = next(rounds)
        with stopwatch() as watch:
            store.set_keys({"pre-key": keys}).unwrap()
            assert len(store.get_keys("pre-key", list(keys)).unwrap()) == KEYS
        return KEYS / watch.seconds

    def key_by_key() -> float:
        keys = next(rounds)
        with stopwatch() as watch:
            for key_id, value in keys.items():
                connection.execute(
                    "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
                    " VALUES (%s, 'pre-key', %s, %s) ON CONFLICT (company_id, key_type, key_id)"
                    " DO UPDATE SET value = excluded.value, updated_at = now()",
                    (peer, key_id, json.dumps(value).encode()),
                )
            for key_id in keys:
                row = connection.execute(
                    "SELECT value FROM whatsapp_keys"
                    " WHERE company_id = %s AND key_type = 'pre-key' AND key_id = %s",
                    (peer, key_id),
                ).fetchone()
                assert row is not None
                json.loads(row[0])
        return KEYS / watch.seconds

    work = f"{KEYS} WhatsApp keys set, then read"
    beside = Peer("psycopg, autocommit: one statement per key", key_by_key, Target(at_least=10))
    return [Benchmark("P11", work, "keys/s", ours, [beside])]


def _rounds() -> Iterator[Keys]:
    """Yield sets of new pre-keys in the form that Baileys writes."""
    while True:
        yield {str(number): {"private": _buffer(), "public": _buffer()} for number in range(KEYS)}


def _buffer() -> dict[str, str]:
    return {"type": "Buffer", "data": b64encode(os.urandom(32)).decode()}
