"""Run the benchmarks, print a table of the results, and optionally write them as JSON."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import bulk, cutover, imports, observability, probes, reads, schema, transfer, whatsapp
from benchmarks.environment import Environment, environment
from benchmarks.harness import Benchmark, Row, profile, run
from benchmarks.table import render

# One module per group. To add a benchmark, add a function to its module and a line here.
BENCHMARKS: dict[str, Callable[[Environment], list[Benchmark]]] = {
    "P1": bulk.new_rows,
    "P2": bulk.changed_rows,
    "P3": bulk.unchanged_rows,
    "P4": bulk.beside_orms,
    "P5": reads.beside_psycopg,
    "P6": reads.beside_orm,
    "P7": observability.cost_per_query,
    "P8": imports.of_a_salon,
    "P9": probes.beside_bare_flask,
    "P10": probes.exhausted_pool,
    "P11": whatsapp.one_call,
    "P12": transfer.copying,
    "P13": transfer.verifying,
    "P14": cutover.stalls,
    "P15": schema.unique_constraint,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that the command line names and return the exit code.

    A missed target is marked in the table; it does not change the exit code.
    """
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    with environment(options.rows) as database:
        server = database.server_version()
        for name in options.only:
            print(f"{name} …", end=" ", flush=True, file=sys.stderr)
            benchmarks = BENCHMARKS[name](database)
            if options.profile:
                print(f"\n{name}: {benchmarks[0].work}", profile(benchmarks[0]), sep="\n")
            else:
                rows += [row for benchmark in benchmarks for row in run(benchmark, options.repeats)]
        print(file=sys.stderr)
    if options.profile:
        return 0
    print(render(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(_report(rows, server), ensure_ascii=False, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=_names, default=list(BENCHMARKS), metavar="P1,P5", help="these benchmarks only"
    )
    parser.add_argument(
        "--rows", type=_positive, default=20_000, help="number of clients in the salon (default: 20000)"
    )
    parser.add_argument(
        "--repeats", type=_positive, metavar="N", help="rounds per benchmark (default: the benchmark's own)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument(
        "--profile", action="store_true", help="print a profile of Frontdesk's code instead of results"
    )
    return parser


def _names(text: str) -> list[str]:
    names = text.upper().split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(BENCHMARKS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a positive number")
    return int(text)


def _report(rows: list[Row], server: str) -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "postgresql": server},
        "versions": {name: version(name) for name in ("sqlalchemy", "psycopg", "psycopg-pool", "pydantic")},
        "results": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
