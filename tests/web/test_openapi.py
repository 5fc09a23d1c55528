"""The service's responses conform to its OpenAPI description."""

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
    """Return the served OpenAPI description of a service with a token and a paired salon."""
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
    "no token": {},
    "basic": {"Authorization": basic(TOKEN)},
    "bearer": {"Authorization": f"Bearer {TOKEN}", "Accept": "application/health+json, */*;q=0.1"},
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("path", PATHS)
def test_responses_conform_to_the_description(api: Any, path: str, caller: str) -> None:
    check_responses(api[path]["GET"].as_strategy(), caller)


@pytest.mark.parametrize("caller", CALLERS)
def test_responses_to_invalid_requests_conform_to_the_description(api: Any, caller: str) -> None:
    check_responses(
        api["/health/whatsapp"]["GET"].as_strategy(generation_mode=GenerationMode.NEGATIVE), caller
    )


def check_responses(cases: SearchStrategy[schemathesis.Case], caller: str) -> None:
    """Send generated requests with the caller's headers and validate each response."""

    @settings(max_examples=20)
    @given(case=cases)
    def validate_response(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=CALLERS[caller])

    validate_response()


def test_the_description_contains_each_route(desk: Frontdesk) -> None:
    app = create_app(desk)
    served = {str(rule) for rule in app.url_map.iter_rules() if not str(rule).startswith("/whatsapp/")}
    client: FlaskClient = app.test_client()
    answer = client.get("/openapi.json")
    assert answer.json is not None
    assert set(answer.json["paths"]) == served == set(PATHS)
