"""How old the backups are: on the status page, for `frontdesk doctor` and for Prometheus."""

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
# A day is 24 hours here, also when the clocks have changed since then in the time zone of the session.
MADE = (
    "INSERT INTO backup_runs (kind, backup, taken_at, outcome, seconds, finished_at)"
    " SELECT '{kind}', 'b', at, '{outcome}', 12.5, at"
    " FROM (SELECT now() - make_interval(secs => extract(epoch FROM interval '{age}'))) AS t (at)"
)

NEW = ("create", "1 hour", "good")


def log(url: str, *runs: tuple[str, str, str]) -> None:
    """Put runs into the log: kind, age and outcome of each."""
    execute(url, *(MADE.format(kind=kind, age=age, outcome=outcome) for kind, age, outcome in runs))


def seen(url: str, environment: str = "test") -> tuple[str, str, str]:
    """What the status page shows, what Prometheus gets, and doctor's exit code."""
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
    checks = {each["name"]: each["verdict"] for each in json.loads(checked.stdout)["checks"]}
    return page, metrics, f"{checks['backup']} {checks['drill']}"


@pytest.mark.parametrize(
    ("runs", "shown", "checks"),
    [
        ((), "none yet", "skipped skipped"),
        ((("create", "25 hours", "good"),), "never restored for a try", "ok skipped"),
        ((("create", "27 hours", "good"),), "The last good backup is 27 h old", "wrong skipped"),
        ((NEW, ("drill", "34 days", "good")), "restored for a try 34 days ago, in 12.5 s", "ok ok"),
        ((NEW, ("drill", "36 days", "good")), "The last good drill is 36 days old", "ok wrong"),
        ((NEW, ("verify", "2 hours", "bad"), ("verify", "1 hour", "failed")), "none yet", "skipped skipped"),
        ((NEW, ("verify", "2 hours", "bad"), ("verify", "1 hour", "good")), "60 min ago", "ok skipped"),
    ],
)
def test_the_age_is_seen_everywhere(
    database_url: str, runs: tuple[tuple[str, str, str], ...], shown: str, checks: str
) -> None:
    log(database_url, *runs)
    page, metrics, found = seen(database_url)
    assert shown in re.sub(r"\s+", " ", page)
    assert found == checks
    assert ("frontdesk_backup_timestamp_seconds 0.0" in metrics) is (checks[:7] == "skipped")


def test_production_asks_for_a_backup_when_there_never_was_one(database_url: str) -> None:
    page, _, found = seen(database_url, "production")
    assert "There is no good backup yet." in page
    assert found == "warning warning"


def test_the_alert_rules_have_the_limits_of_the_settings() -> None:
    fields = Settings.model_fields
    backup, drill = (
        int(number) * int(unit)
        for number, unit in re.findall(r"time\(\) - max\(frontdesk_backup_\w+\) > (\d+) \* (\d+)", RULES)
    )
    assert timedelta(seconds=backup) == timedelta(hours=fields["backup_max_hours"].default)
    assert timedelta(seconds=drill) == timedelta(days=fields["backup_drill_max_days"].default)
