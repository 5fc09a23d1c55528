"""Dashboard, alert rules and the page of operations name all existing metrics and no others."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import app.web  # noqa: F401 - with it every metric is there

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs/grafana/frontdesk.json"
RULES = ROOT / "docs/prometheus/frontdesk.rules.yml"
PAGE = ROOT / "docs/operations.md"
NAME = re.compile(r"\bfrontdesk_[a-z_]+\b")


def existing() -> set[str]:
    """Return the names of all time series of Frontdesk."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        f"{metric.name}{suffix}"
        for metric in REGISTRY.collect()
        if metric.name.startswith("frontdesk_")
        for suffix in suffixes.get(metric.type, ())
        if not metric.name.endswith("_created")
    }


@pytest.mark.parametrize("file", [DASHBOARD, RULES], ids=lambda file: file.name)
def test_every_metric_that_is_asked_for_exists(file: Path) -> None:
    named = set(NAME.findall(file.read_text()))
    assert len(named) > 5
    assert named <= existing()


def test_every_metric_is_on_the_page_and_no_other_is() -> None:
    table = PAGE.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    documented = {
        name
        for row in re.findall(r"^\| (`frontdesk.*?) \|", table, re.MULTILINE)
        for name in NAME.findall(row)
    }
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in existing()}
    assert documented == families


def test_every_alert_can_be_read_and_has_a_severity_and_a_sentence() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert set(group) == {"name", "rules"}
    assert len(group["rules"]) > 5
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert " " in rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_what_an_alert_counts_is_there_before_the_first_time() -> None:
    """Prometheus sees a counter grow only from a value that it has seen."""
    series = {
        (sample.name, *sample.labels.values()) for metric in REGISTRY.collect() for sample in metric.samples
    }
    assert ("frontdesk_failures_total", "data_layer", "unavailable") in series
    assert ("frontdesk_failures_total", "web", "internal") in series
    assert ("frontdesk_db_slow_queries_total", "SELECT") in series


def test_the_dashboard_has_panels_that_all_ask_something() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert len(dashboard["panels"]) > 8
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
