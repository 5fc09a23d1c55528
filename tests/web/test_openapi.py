"""The served description, and whether the service does what it says."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks

from app import Frontdesk, Settings
from app.web import create_app
from tests.web.test_health import basic

TOKEN = "s3cret"

load_all_checks()


@pytest.fixture(scope="module")
def api(new_database: Callable[[], str]) -> Iterator[Any]:
    """The description as it is served, of a service with a token and a salon that is paired."""
    with Frontdesk(Settings(database_url=new_database(), health_token=TOKEN)) as desk:
        salon = desk.company(1)
        salon.upsert_company({"title": "Salon"}).unwrap()
        salon.whatsapp.set_creds({"me": 1}, None).unwrap()
        salon.whatsapp.set_keys({"session": {f"{n}.0": {} for n in range(20)}}).unwrap()
        yield schemathesis.openapi.from_wsgi("/openapi.json", create_app(desk))


PATHS = (
    "/health",
    "/health/live",
    "/health/ready",
    "/health/database",
    "/health/database/metrics",
    "/health/whatsapp",
    "/health/transfer",
    "/metrics",
    "/openapi.json",
    "/status",
)
CALLERS: dict[str, dict[str, str]] = {
    "anybody": {},
    "an operator": {"Authorization": basic(TOKEN)},
    "a machine": {"Authorization": f"Bearer {TOKEN}", "Accept": "application/health+json, */*;q=0.1"},
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_as_described(api: Any, path: str, caller: str) -> None:
    examine(api[path]["GET"].as_strategy(), caller)


@pytest.mark.parametrize("caller", CALLERS)
def test_wrong_questions_are_answered_as_described(api: Any, caller: str) -> None:
    examine(api["/health/whatsapp"]["GET"].as_strategy(generation_mode=GenerationMode.NEGATIVE), caller)


def examine(cases: SearchStrategy[schemathesis.Case], caller: str) -> None:
    @settings(max_examples=20)
    @given(case=cases)
    def answers_as_described(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=CALLERS[caller])

    answers_as_described()


def test_every_route_is_described(desk: Frontdesk) -> None:
    app = create_app(desk)
    served = {str(rule) for rule in app.url_map.iter_rules() if not str(rule).startswith("/whatsapp/")}
    client: FlaskClient = app.test_client()
    answer = client.get("/openapi.json")
    assert answer.json is not None
    assert set(answer.json["paths"]) == served == set(PATHS)
