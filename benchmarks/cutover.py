"""P14: longest wait of a writer during a cutover."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

import psycopg

from app import Frontdesk, Settings
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, SideName, Sides
from app.transfer.start import start
from benchmarks.environment import Environment
from benchmarks.harness import Benchmark, Peer, Target

WRITERS = 2
CLIENTS = 20_000
ROWS = 20_000  # in each merge
SETTLE_SECONDS = 1.0  # duration of writing before and after the cutover

_processes = multiprocessing.get_context("spawn")


def stalls(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P14: longest write stall of a cutover, without and with a concurrent merge."""
    sides = _moving(environment)
    alone = Target(at_most=250, of_ours=True)
    beside = Target(at_most=1000, of_ours=True)
    return [
        Benchmark(
            "P14",
            f"longest write stall in a cutover, {WRITERS} writers",
            "ms",
            lambda: _longest_stall(sides, moving=True, merging=False),
            [Peer("the same without a cutover", lambda: _longest_stall(sides, False, False), alone)],
            repeats=3,
        ),
        Benchmark(
            "P14",
            f"the same during a merge of {ROWS:,} rows",
            "ms",
            lambda: _longest_stall(sides, moving=True, merging=True),
            [Peer("the same without a cutover", lambda: _longest_stall(sides, False, True), beside)],
            repeats=3,
        ),
    ]


def _moving(environment: Environment) -> Sides:
    sides = Sides(
        Side("legacy", environment.new_database("from")), Side("primary", environment.new_database("to"))
    )
    with psycopg.connect(sides.legacy.url) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon'), (2, 'Salon')")
        connection.execute(
            "INSERT INTO clients (company_id, yclients_id, name)"
            " SELECT 1, n, 'Client' FROM generate_series(1, %s) AS n",
            (CLIENTS,),
        )
    start(sides)
    copy(sides)
    return sides


def _longest_stall(sides: Sides, moving: bool, merging: bool) -> float:
    """Return the longest time between two acknowledged writes of one writer, in milliseconds."""
    urls = [side.url for side in sides]
    works = [(_write, (urls, number)) for number in range(WRITERS)] + [(_merge, (urls,))] * merging
    with _working(works) as pipes:
        time.sleep(SETTLE_SECONDS)
        for pipe in pipes[:WRITERS]:
            pipe.send("measure")
        time.sleep(SETTLE_SECONDS)
        if moving:
            change_live_side(sides, _other(sides), max_pause=2)
        time.sleep(SETTLE_SECONDS)
        for pipe in pipes[:WRITERS]:
            pipe.send("stop")
        return max(float(pipe.recv()) for pipe in pipes[:WRITERS]) * 1000


def _other(sides: Sides) -> SideName:
    with closing(sides.legacy.connect()) as connection:
        row = connection.execute("SELECT state FROM frontdesk_transfer.side").fetchone()
    return "primary" if row == ("open",) else "legacy"


@contextmanager
def _working(works: list[tuple[Any, tuple[Any, ...]]]) -> Iterator[list[Pipe]]:
    ends = [_processes.Pipe() for _ in works]
    processes = [
        _processes.Process(target=work, args=(*arguments, end), daemon=True)
        for (work, arguments), (_, end) in zip(works, ends, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for parent_end, _ in ends:
            assert parent_end.recv() == "ready"
        yield [parent_end for parent_end, _ in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _write(urls: list[str], number: int, pipe: Pipe) -> None:
    """Write rows one after the other on the live side, and send the longest stall in seconds at the end."""
    connections = [psycopg.connect(url, autocommit=True) for url in urls]
    at = writes = 0
    longest, last = 0.0, time.perf_counter()
    pipe.send("ready")
    while True:
        try:
            connections[at].execute(
                "UPDATE clients SET visit_count = visit_count + 1 WHERE company_id = 1 AND yclients_id = %s",
                ((writes * WRITERS + number) % CLIENTS + 1,),
            )
        except psycopg.Error as error:
            if error.sqlstate != "FD001":
                raise
            at = 1 - at
            time.sleep(0.002)
            continue
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        writes += 1
        if writes % 100 == 0 and pipe.poll():
            if pipe.recv() == "stop":
                pipe.send(longest)
                return
            longest = 0.0


def _merge(urls: list[str], pipe: Pipe) -> None:
    """Merge rows again and again through the data layer, which follows the live side."""
    with Frontdesk(Settings(legacy_database_url=urls[0], database_url=urls[1])) as desk:
        salon = desk.company(2)
        pipe.send("ready")
        for visits in range(10**6):
            rows = ({"yclients_id": n, "name": "Client", "visit_count": visits} for n in range(1, ROWS + 1))
            salon.upsert_clients(rows).unwrap()
            time.sleep(SETTLE_SECONDS)
