"""The age of the backups on the status page, in `frontdesk doctor` and in Prometheus metrics."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from app import Frontdesk, Settings, create_app
from app.cli import main
from app.config import PROJECT_ROOT
from tests.servers import execute

RULES = Path(PROJECT_ROOT, "docs/prometheus/frontdesk.rules.yml").read_text()
# Subtracts seconds, so that a day is 24 hours even across a clock change in the session's time zone.
INSERT_RUN = (
    "INSERT INTO backup_runs (kind, backup, taken_at, outcome, seconds, finished_at)"
    " SELECT '{kind}', 'b', at, '{outcome}', 12.5, at"
    " FROM (SELECT now() - make_interval(secs => extract(epoch FROM interval '{age}'))) AS t (at)"
)

NEW = ("create", "1 hour", "good")


def log(url: str, *runs: tuple[str, str, str]) -> None:
    """Insert runs, given as (kind, age, outcome), into the log."""
    execute(url, *(INSERT_RUN.format(kind=kind, age=age, outcome=outcome) for kind, age, outcome in runs))


def read_everywhere(url: str, environment: str = "test") -> tuple[str, str, str]:
    """Return the status page, the metrics, and doctor's verdicts on backup and drill, as "ok skipped"."""
    settings = Settings(database_url=SecretStr(url), environment="test", sentry_enabled=False).model_copy(
        update={"environment": environment}
    )
    with Frontdesk(settings) as desk:
        client = create_app(desk).test_client()
        page, metrics = client.get("/status").text, client.get("/metrics").text
    checked = CliRunner().invoke(
        main,
        ["doctor", "--json"],
        env={"DATABASE_URL": url, "ENVIRONMENT": environment, "SENTRY_ENABLED": "false"},
    )
    checks = {check["name"]: check["verdict"] for check in json.loads(checked.stdout)["checks"]}
    return page, metrics, f"{checks['backup']} {checks['drill']}"


@pytest.mark.parametrize(
    ("runs", "shown", "checks"),
    [
        ((), "none yet", "skipped skipped"),
        ((("create", "25 hours", "good"),), "no drill yet", "ok skipped"),
        ((("create", "27 hours", "good"),), "The last good backup is 27 h old", "wrong skipped"),
        ((NEW, ("drill", "34 days", "good")), "last drill 34 days ago, restored in 12.5 s", "ok ok"),
        ((NEW, ("drill", "36 days", "good")), "The last good drill is 36 days old", "ok wrong"),
        ((NEW, ("verify", "2 hours", "bad"), ("verify", "1 hour", "failed")), "none yet", "skipped skipped"),
        ((NEW, ("verify", "2 hours", "bad"), ("verify", "1 hour", "good")), "60 min ago", "ok skipped"),
    ],
)
def test_page_metrics_and_doctor_report_the_age_of_backup_and_drill(
    database_url: str, runs: tuple[tuple[str, str, str], ...], shown: str, checks: str
) -> None:
    log(database_url, *runs)
    page, metrics, verdicts = read_everywhere(database_url)
    assert shown in re.sub(r"\s+", " ", page)
    assert verdicts == checks
    assert ("frontdesk_backup_timestamp_seconds 0.0" in metrics) is (checks[:7] == "skipped")


def test_production_without_any_backup_shows_a_warning(database_url: str) -> None:
    page, _, verdicts = read_everywhere(database_url, "production")
    assert "There is no good backup yet." in page
    assert verdicts == "warning warning"


def test_the_alert_rules_use_the_default_limits_of_the_settings() -> None:
    fields = Settings.model_fields
    backup, drill = (
        int(number) * int(unit)
        for number, unit in re.findall(r"time\(\) - max\(frontdesk_backup_\w+\) > (\d+) \* (\d+)", RULES)
    )
    assert timedelta(seconds=backup) == timedelta(hours=fields["backup_max_hours"].default)
    assert timedelta(seconds=drill) == timedelta(days=fields["backup_drill_max_days"].default)
