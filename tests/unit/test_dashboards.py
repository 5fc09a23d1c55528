"""Dashboard, alert rules and documentation use existing metrics, and every metric is documented."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import app.web  # noqa: F401 - registers all metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs/grafana/frontdesk.json"
RULES = ROOT / "docs/prometheus/frontdesk.rules.yml"
PAGE = ROOT / "docs/operations.md"
NAME = re.compile(r"\bfrontdesk_[a-z_]+\b")


def existing() -> set[str]:
    """Return the names of all Frontdesk series, as queries use them."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        f"{metric.name}{suffix}"
        for metric in REGISTRY.collect()
        if metric.name.startswith("frontdesk_")
        for suffix in suffixes.get(metric.type, ())
        if not metric.name.endswith("_created")
    }


@pytest.mark.parametrize("file", [DASHBOARD, RULES], ids=lambda file: file.name)
def test_queries_use_only_existing_metrics(file: Path) -> None:
    named = set(NAME.findall(file.read_text()))
    assert len(named) > 5
    assert named <= existing()


def test_the_page_documents_every_metric_and_no_other() -> None:
    table = PAGE.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    documented = {
        name
        for row in re.findall(r"^\| (`frontdesk.*?) \|", table, re.MULTILINE)
        for name in NAME.findall(row)
    }
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in existing()}
    assert documented == families


def test_every_alert_rule_has_a_severity_and_a_summary() -> None:
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


def test_counters_of_alerts_exist_before_the_first_event() -> None:
    """Prometheus detects an increase only if it has scraped an earlier value."""
    series = {
        (sample.name, *sample.labels.values()) for metric in REGISTRY.collect() for sample in metric.samples
    }
    assert ("frontdesk_failures_total", "data_layer", "unavailable") in series
    assert ("frontdesk_failures_total", "web", "internal") in series
    assert ("frontdesk_db_slow_queries_total", "SELECT") in series


def test_every_panel_of_the_dashboard_has_a_title_and_a_query() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert len(dashboard["panels"]) > 8
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
