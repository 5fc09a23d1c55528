"""Metrics of all workers, in Prometheus's format and as JSON, protected by the token."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from app import Frontdesk, Settings, create_app
from app.config import PROJECT_ROOT
from app.data_layer import DataLayer
from app.observability import metrics, slow_queries
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until
from tests.web.conftest import Opener

MAX_CONNECTIONS_METRIC = "frontdesk_db_pool_max_connections"
METRICS_PATHS = ("/metrics", "/health/database/metrics")


@pytest.fixture
def client(desk: Frontdesk) -> FlaskClient:
    return create_app(desk).test_client()


def samples(text: str) -> dict[str, float]:
    """Parse Prometheus's text format; return values by `name{"label": "value"}`."""
    return {
        "{}{}".format(sample.name, json.dumps(sample.labels) if sample.labels else ""): sample.value
        for family in prometheus(text)
        for sample in family.samples
    }


def test_the_json_document_has_totals_kinds_percentiles_and_slow_queries(
    client: FlaskClient, salon: DataLayer
) -> None:
    salon.get_client_by_id(1).unwrap()
    answer = client.get("/health/database/metrics")
    assert answer.status_code == 200
    document: Any = answer.json
    assert set(document) == {"timestamp", "metrics"}
    values = document["metrics"]
    assert set(values) == {"total", "by_type", "percentiles", "slow_queries"}
    assert values["total"] == sum(kind["count"] for kind in values["by_type"].values())
    assert set(values["by_type"]["SELECT"]) == {"count", "avg_ms"}
    assert values["percentiles"]["p50"] <= values["percentiles"]["p95"] <= values["percentiles"]["p99"]


def test_the_json_and_prometheus_formats_agree(client: FlaskClient, salon: DataLayer) -> None:
    salon.get_client_by_id(1).unwrap()
    document: Any = client.get("/health/database/metrics").json
    text = samples(client.get("/metrics").text)
    assert "SELECT" in document["metrics"]["by_type"]
    for kind, totals in document["metrics"]["by_type"].items():
        label = json.dumps({"kind": kind})
        count = text[f"frontdesk_db_query_duration_seconds_count{label}"]
        seconds = text[f"frontdesk_db_query_duration_seconds_sum{label}"]
        assert totals["count"] == count
        assert totals["avg_ms"] == pytest.approx(1000 * seconds / count, abs=0.001)


def test_slow_queries_are_in_the_json(
    client: FlaskClient, salon: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SLOW_QUERY_SECONDS", 0.0)
    salon.get_client_by_phone("+79681234567").unwrap()
    monkeypatch.undo()
    document: Any = client.get("/health/database/metrics").json
    slow = document["metrics"]["slow_queries"][0]
    assert set(slow) == {"text", "kind", "duration_ms", "rows", "at", "company_id", "operation"}
    assert slow["company_id"] == salon.company_id
    assert "9681234567" not in slow["text"]


def test_prometheus_and_openmetrics_parsers_read_the_metrics(client: FlaskClient) -> None:
    assert list(prometheus(client.get("/metrics").text))
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert list(openmetrics(answer.text))


def test_each_metric_name_has_a_prefix_and_a_unit_unless_it_is_a_counter() -> None:
    own_metrics = [value for value in vars(metrics).values() if hasattr(value, "_unit")]
    assert len(own_metrics) > 10
    for metric in own_metrics:
        name = metric._name
        assert name.startswith("frontdesk_")
        assert metric._type == "counter" or re.search(r"_(seconds|connections|requests|keys|equal)$", name)


def test_both_formats_require_the_token_if_one_is_set(worker_database_url: str) -> None:
    with Frontdesk(Settings(database_url=worker_database_url, health_token="s3cret")) as desk:
        client = create_app(desk).test_client()
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics").headers["WWW-Authenticate"].startswith("Bearer")
        assert client.get("/health/database/metrics").json == {"status": "ok"}
        for path in METRICS_PATHS:
            bare, wrong = client.get(path), client.get(path, headers={"Authorization": "Bearer wrong"})
            assert (wrong.status_code, wrong.text) == (bare.status_code, bare.text)
            answer = client.get(path, headers={"Authorization": "Bearer s3cret"})
            assert answer.status_code == 200
            assert len(answer.text) > 100


@dataclass(frozen=True)
class Workers:
    """Three gunicorn workers behind one port, and their shared metrics directory."""

    process: Process
    port: int
    directory: Path

    @property
    def files(self) -> set[str]:
        return {file.name for file in self.directory.glob("*.db")}

    @property
    def queries(self) -> float:
        return float(get(self.port, "/health/database/metrics").json()["metrics"]["total"])

    def are_running(self) -> bool:
        return len(self.process.children()) == 3 and metric_value(self.port, MAX_CONNECTIONS_METRIC) == 9


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str]) -> Iterator[Workers]:
    folder, port = tmp_path_factory.mktemp("workers"), free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", "--workers", "3", "wsgi:app"]
    environment = {"DATABASE_URL": new_database(), "PROMETHEUS_MULTIPROC_DIR": str(folder / "shared")}
    with running_process(command, folder / "output", PROJECT_ROOT, **environment) as process:
        wait_until(lambda: is_serving(port))
        yield Workers(process, port, folder / "shared")


def metric_value(port: int, name: str) -> float:
    return samples(get(port, "/metrics").text).get(name, 0.0)


def test_each_worker_reports_the_metrics_of_all_workers(workers: Workers) -> None:
    wait_until(workers.are_running)
    assert {metric_value(workers.port, MAX_CONNECTIONS_METRIC) for _ in range(20)} == {9}
    for _ in range(20):
        get(workers.port, "/whatsapp/1/creds")
    wait_until(lambda: workers.queries >= 20)
    # Each worker queries the database every ten seconds; such a query may fall between two requests.
    wait_until(lambda: len({workers.queries for _ in range(12)}) == 1)


def test_replaced_workers_leave_no_extra_files_and_keep_their_counts(workers: Workers) -> None:
    wait_until(workers.are_running)
    for _ in range(2):
        files, queries = workers.files, workers.queries
        killed = workers.process.children()[0]
        killed.kill()
        psutil.wait_procs([killed], timeout=10)
        wait_until(workers.are_running)
        assert workers.files == files
        assert workers.queries >= queries
    old = {*workers.process.children()}
    workers.process.send(signal.SIGHUP)  # old and new workers run at the same time
    wait_until(lambda: not old & {*workers.process.children()} and workers.are_running())
    assert workers.queries >= queries


def test_an_empty_metric_file_of_a_killed_worker_does_not_disturb_the_metrics(workers: Workers) -> None:
    wait_until(workers.are_running)
    empty = workers.directory / "counter_killed.db"  # prometheus_client opens a file first, then sizes it
    empty.touch()
    try:
        for path in METRICS_PATHS:
            assert get(workers.port, path).status_code == 200
    finally:
        empty.unlink()


def test_metric_files_of_a_killed_master_are_removed_at_the_next_start(
    tmp_path: Path, database_url: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "counter_1.db").write_bytes(b"\0" * 8)
    (shared / "slow_queries.json").write_text("[]")
    port = free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", "wsgi:app"]
    environment = {"DATABASE_URL": database_url, "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with running_process(command, tmp_path / "output", PROJECT_ROOT, **environment):
        wait_until(lambda: is_serving(port))
        assert not (shared / "counter_1.db").exists()
        assert not (shared / "slow_queries.json").exists()


def test_slow_queries_of_all_workers_are_in_one_list(
    tmp_path: Path, desk: Frontdesk, salon: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(metrics, "SLOW_QUERY_SECONDS", 0.0)
    for number in range(60):
        salon.get_client_by_id(number + 1).unwrap()
    assert len(slow_queries.recent()) == 50
    assert len(json.loads((tmp_path / "slow_queries.json").read_text())) == 50


def test_an_accept_header_with_an_invalid_version_gets_the_default_format(
    serving: Opener, worker_database_url: str
) -> None:
    client = serving(database_url=worker_database_url)
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=abc"})
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
