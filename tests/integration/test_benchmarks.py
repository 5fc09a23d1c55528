"""The benchmarks run and print their results. The measured values are not tested."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.harness import Benchmark, Peer, Target, run
from benchmarks.table import render


@pytest.fixture(autouse=True)
def use_the_test_server(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", server_url)


def test_every_kind_of_benchmark_prints_both_values_and_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "figures.json"
    only = ["P1", "P11", "P2", "P3", "P5", "P6"]
    assert main(["--only", ",".join(only), "--rows", "60", "--repeats", "1", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert sorted({result["id"] for result in results}) == only
    assert all(result["ours"] is not None and result["theirs"] > 0 for result in results)
    table = capsys.readouterr().out
    assert all(name in table for name in (*only, "WAL", "≥ 0.6 times", "≤ 2.5 times"))


@pytest.mark.full
def test_probes_are_measured_under_gunicorn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "P7,P9,P10", "--rows", "60", "--repeats", "1"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("P7", "P9", "P10", "requests/s", "≤ 300"))


def test_a_profile_lists_functions_instead_of_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "P5", "--rows", "60", "--profile"]) == 0
    assert "get_client_by_phone" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_a_list_of_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "P99"])
    assert f"P99: not one of {', '.join(BENCHMARKS)}" in capsys.readouterr().err


def test_medians_are_compared_and_the_first_round_is_discarded() -> None:
    figures = iter([1000.0, 2.0, 9.0, 1.0])
    peer = Peer("peer", lambda: 4.0, Target(at_least=0.6))
    (row,) = run(Benchmark("P0", "work", "rows/s", lambda: next(figures), [peer], repeats=3))
    assert (row.ours, row.theirs, row.ratio, row.met) == (2.0, 4.0, 0.5, False)


def test_a_peer_that_is_not_installed_is_reported() -> None:
    peer = Peer("peer", None, Target(at_least=4), "peer is not installed")
    (row,) = run(Benchmark("P0", "work", "rows/s", lambda: 1.0, [peer], repeats=1))
    assert row.met is None
    assert "peer is not installed" in render([row])


def test_an_absolute_target_ignores_the_ratio() -> None:
    peer = Peer("peer", lambda: 1.0, Target(at_most=8, of_ours=True))
    (row,) = run(Benchmark("P0", "work", "bytes", lambda: 9.0, [peer], repeats=1))
    assert row.met is False
