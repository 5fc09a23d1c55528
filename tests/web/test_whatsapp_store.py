"""HTTP routes of the session store, as the WhatsApp worker uses them."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app import Frontdesk, Settings
from app.frontdesk import Salon
from app.web import create_app
from app.web.routes.whatsapp import MAX_BODY_BYTES

BUFFER = {"type": "Buffer", "data": "AQID"}
TOKEN = "t0ken"


@pytest.fixture
def client(desk: Frontdesk) -> FlaskClient:
    return create_app(desk).test_client()


@pytest.fixture
def path(salon: Salon) -> str:
    return f"/whatsapp/{salon.company_id}"


def put_creds(client: FlaskClient, path: str, creds: Any, version: str) -> TestResponse:
    return client.put(f"{path}/creds", json=creds, headers={"If-Match": version})


def code(response: TestResponse) -> str:
    assert response.is_json
    return str(response.json["error"]["code"])


class TestCredentials:
    def test_a_salon_that_is_not_paired_gets_404_with_the_code_no_credentials(
        self, client: FlaskClient, path: str
    ) -> None:
        response = client.get(f"{path}/creds")
        assert (response.status_code, code(response)) == (404, "no_credentials")

    def test_the_first_credentials_are_stored_with_a_star_and_returned_with_their_version(
        self, client: FlaskClient, path: str
    ) -> None:
        written = put_creds(client, path, {"noiseKey": {"0": 1, "1": 2, "2": 3}}, "*")
        assert (written.status_code, written.json) == (200, {"version": 1})
        read = client.get(f"{path}/creds")
        assert read.json == {"creds": {"noiseKey": BUFFER}, "version": 1}
        assert read.headers["ETag"] == '"1"'

    @pytest.mark.parametrize("version", ["1", '"1"'])
    def test_credentials_with_the_current_version_are_replaced(
        self, client: FlaskClient, path: str, version: str
    ) -> None:
        put_creds(client, path, {"n": 1}, "*")
        assert put_creds(client, path, {"n": 2}, version).json == {"version": 2}

    @pytest.mark.parametrize("version", ["*", "0", "1", "3"])
    def test_a_write_with_an_outdated_version_is_412_and_changes_nothing(
        self, client: FlaskClient, path: str, version: str
    ) -> None:
        put_creds(client, path, {"n": 1}, "*")
        put_creds(client, path, {"n": 2}, "1")
        response = put_creds(client, path, {"n": 3}, version)
        assert (response.status_code, code(response)) == (412, "conflict")
        assert client.get(f"{path}/creds").json == {"creds": {"n": 2}, "version": 2}

    def test_a_write_with_a_version_is_412_if_no_credentials_are_stored(
        self, client: FlaskClient, path: str
    ) -> None:
        assert put_creds(client, path, {}, "1").status_code == 412

    def test_a_write_without_a_valid_version_stores_nothing(self, client: FlaskClient, path: str) -> None:
        assert client.put(f"{path}/creds", json={}).status_code == 428
        assert put_creds(client, path, {}, "first").status_code == 400
        assert client.get(f"{path}/creds").status_code == 404


class TestKeys:
    def test_stored_keys_are_returned_and_missing_ids_are_absent(
        self, client: FlaskClient, path: str
    ) -> None:
        keys = {"pre-key": {"1": {"private": BUFFER, "public": BUFFER}}, "lid-mapping": {"7968": "23"}}
        assert client.post(f"{path}/keys/set", json=keys).status_code == 204
        got = client.post(f"{path}/keys/get", json={"type": "pre-key", "ids": ["1", "2"]})
        assert (got.status_code, got.json) == (200, keys["pre-key"])
        assert client.post(f"{path}/keys/get", json={"type": "lid-mapping", "ids": ["7968"]}).json == {
            "7968": "23"
        }

    def test_null_deletes_a_key_and_a_repeated_deletion_succeeds(
        self, client: FlaskClient, path: str
    ) -> None:
        client.post(f"{path}/keys/set", json={"pre-key": {"1": 1}})
        for _ in range(2):
            both = {"pre-key": {"1": None}, "session": {"a": {}}}
            assert client.post(f"{path}/keys/set", json=both).status_code == 204
        assert client.post(f"{path}/keys/get", json={"type": "pre-key", "ids": ["1"]}).json == {}

    def test_strings_that_jsonb_rejects_are_stored_unchanged(self, client: FlaskClient, path: str) -> None:
        value = {"nul": "\0", "half a pair": "\ud83d", "кириллица": "ы", "": ["", None, 1.5, True]}
        client.post(f"{path}/keys/set", json={"odd": {"'\";--": value}})
        assert client.post(f"{path}/keys/get", json={"type": "odd", "ids": ["'\";--"]}).json == {
            "'\";--": value
        }

    def test_logging_out_deletes_credentials_and_keys(self, client: FlaskClient, path: str) -> None:
        put_creds(client, path, {}, "*")
        client.post(f"{path}/keys/set", json={"session": {"a": {}}})
        assert [client.delete(path).status_code for _ in range(2)] == [204, 204]
        assert client.get(f"{path}/creds").status_code == 404
        assert client.post(f"{path}/keys/get", json={"type": "session", "ids": ["a"]}).json == {}


def nested(depth: int) -> bytes:
    return b'{"session": {"a": ' + b"[" * depth + b"]" * depth + b"}}"


class TestInvalidInput:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"text"',
            b'{"session": []}',
            b'{"session": null}',
            b'{"session": {"": 1}}',
            b'{"": {"a": 1}}',
            b'{"session": {"a\\u0000": 1}}',
            b'{"session": {"\\ud800": 1}}',
            b'{"session": {"good": 1, "a": NaN}}',
            b'{"session": {"good": 1, "a": 1e999}}',
            b'{"session": {"a": ' + b"1" * 5000 + b"}}",
            b'{"session": {"good": 1, "' + b"'\\\"\\u0000" * 2000 + b'": 1}}',
            b'{"session": {"good": 1, "' + b"x" * 10_000 + b'": 1}}',
            '{"session": {"a": 1}}'.encode("utf-16"),
            b'{"session": {"a": "\xff"}}',
            *(nested(depth) for depth in (101, 500, 900, 1000, 100_000)),
        ],
        ids=lambda body: repr(body[:40]),
    )
    def test_an_invalid_set_request_is_400_and_stores_nothing(
        self, client: FlaskClient, path: str, salon: Salon, body: bytes
    ) -> None:
        response = client.post(f"{path}/keys/set", data=body)
        assert (response.status_code, code(response)) == (400, "invalid")
        assert salon.whatsapp.statistics().unwrap().total == 0

    @pytest.mark.parametrize(
        "body",
        [
            {},
            [],
            {"type": "session"},
            {"type": "session", "ids": "a"},
            {"type": "session", "ids": {"a": 1}},
            {"type": "session", "ids": [1]},
            {"type": "session", "ids": ["a", None]},
            {"type": 1, "ids": ["a"]},
            {"type": "session", "ids": ["\0"]},
            {"type": "session", "ids": ["x" * 10_000]},
            {"type": "session", "ids": ["a"], "more": 1},
        ],
        ids=repr,
    )
    def test_an_invalid_get_request_is_400(self, client: FlaskClient, path: str, body: Any) -> None:
        response = client.post(f"{path}/keys/get", json=body)
        assert (response.status_code, code(response)) == (400, "invalid")

    @pytest.mark.parametrize("creds", [None, [], "text", 1])
    def test_credentials_other_than_an_object_are_400(
        self, client: FlaskClient, path: str, creds: Any
    ) -> None:
        response = client.put(f"{path}/creds", data=json.dumps(creds), headers={"If-Match": "*"})
        assert (response.status_code, code(response)) == (400, "invalid")

    @pytest.mark.parametrize("company", ["abc", "0", "-1", "1.5", str(2**63), "9" * 30, "%00", "１"])
    def test_an_invalid_company_id_is_400(self, client: FlaskClient, company: str) -> None:
        responses = every_route(client, f"/whatsapp/{company}")
        assert [code(response) for response in responses] == ["invalid"] * 7

    def test_an_unknown_company_is_404_on_each_route(self, client: FlaskClient, company_id: int) -> None:
        for response in every_route(client, f"/whatsapp/{company_id}"):
            assert (response.status_code, code(response)) == (404, "unknown_company")

    def test_a_body_of_50_mb_is_413_and_stores_nothing(
        self, client: FlaskClient, path: str, salon: Salon
    ) -> None:
        body = b'{"session": {"a": "' + b"x" * 50_000_000 + b'"}}'
        response = client.post(f"{path}/keys/set", data=body)
        assert (response.status_code, code(response)) == (413, "too_large")
        assert salon.whatsapp.statistics().unwrap().total == 0

    def test_a_large_body_of_unknown_length_is_413_and_stores_nothing(
        self, client: FlaskClient, path: str, salon: Salon
    ) -> None:
        body = b'{"session": {"a": "' + b"x" * (MAX_BODY_BYTES + 10) + b'"}}'
        stream = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
        response = client.post(f"{path}/keys/set", environ_overrides=stream)
        assert (response.status_code, code(response)) == (413, "too_large")
        assert salon.whatsapp.statistics().unwrap().total == 0

    def test_a_body_just_below_the_size_limit_is_stored(self, client: FlaskClient, path: str) -> None:
        value = "x" * (MAX_BODY_BYTES - 100)
        assert client.post(f"{path}/keys/set", json={"big": {"a": value}}).status_code == 204


def every_route(client: FlaskClient, path: str) -> list[TestResponse]:
    worker = {"Frontdesk-Worker": "w"}
    return [
        client.get(f"{path}/creds"),
        put_creds(client, path, {}, "*"),
        put_creds(client, path, {}, "1"),
        client.post(f"{path}/keys/get", json={"type": "session", "ids": ["a"]}),
        client.post(f"{path}/keys/set", json={"session": {"a": None}}),
        client.put(f"{path}/lease", headers=worker),
        client.delete(path),
    ]


class TestToken:
    @pytest.fixture
    def client_with_token(self, settings: Settings) -> Iterator[FlaskClient]:
        with Frontdesk(settings.model_copy(update={"whatsapp_api_token": SecretStr(TOKEN)})) as desk:
            yield create_app(desk).test_client()

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer ключ".encode().decode("latin-1")},
        ],
    )
    def test_requests_without_the_token_are_refused_and_store_nothing(
        self, client_with_token: FlaskClient, path: str, salon: Salon, headers: dict[str, str]
    ) -> None:
        response = client_with_token.post(f"{path}/keys/set", json={"session": {"a": 1}}, headers=headers)
        assert (response.status_code, code(response)) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert {response.status_code for response in every_route(client_with_token, path)} == {401}
        assert salon.whatsapp.statistics().unwrap().total == 0

    def test_requests_with_the_token_are_accepted(self, client_with_token: FlaskClient, path: str) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        response = client_with_token.post(f"{path}/keys/set", json={"a": {"b": 1}}, headers=headers)
        assert response.status_code == 204

    def test_production_without_a_token_refuses_all_requests(self, settings: Settings, path: str) -> None:
        with Frontdesk(settings.model_copy(update={"environment": "production"})) as desk:
            client = create_app(desk).test_client()
            responses = every_route(client, path)
        assert {(response.status_code, code(response)) for response in responses} == {(403, "forbidden")}


def test_production_without_encryption_keys_logs_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with Frontdesk(settings.model_copy(update={"environment": "production"})) as desk:
        create_app(desk)
    assert "WHATSAPP_ENCRYPTION_KEYS is not set" in caplog.text


class TestLease:
    def test_the_newest_worker_takes_the_lease_and_writes_of_the_old_one_conflict(
        self, client: FlaskClient, path: str
    ) -> None:
        old, new = {"Frontdesk-Worker": "old"}, {"Frontdesk-Worker": "new"}
        assert client.put(f"{path}/lease", headers=old).json["taken_from"] is None
        assert client.put(f"{path}/lease", headers=new).json["taken_from"] == "old"
        keys = {"session": {"a": 1}}
        refused = client.post(f"{path}/keys/set", json=keys, headers=old)
        assert (refused.status_code, code(refused)) == (409, "conflict")
        creds = client.put(f"{path}/creds", json={}, headers={**old, "If-Match": "*"})
        assert creds.status_code == 409
        assert client.post(f"{path}/keys/set", json=keys, headers=new).status_code == 204

    def test_another_worker_can_write_after_the_lease_is_released(
        self, client: FlaskClient, path: str
    ) -> None:
        client.put(f"{path}/lease", headers={"Frontdesk-Worker": "old"})
        assert client.delete(f"{path}/lease", headers={"Frontdesk-Worker": "old"}).status_code == 204
        written = client.post(
            f"{path}/keys/set", json={"session": {"a": 1}}, headers={"Frontdesk-Worker": "new"}
        )
        assert written.status_code == 204

    def test_a_lease_without_a_worker_name_is_400(self, client: FlaskClient, path: str) -> None:
        assert client.put(f"{path}/lease").status_code == 400


class TestOutage:
    def test_an_unreachable_database_is_503_and_not_a_missing_key(
        self, settings: Settings, salon: Salon
    ) -> None:
        nowhere = SecretStr("postgresql://postgres@127.0.0.1:1/nowhere")
        down = settings.model_copy(update={"database_url": nowhere, "postgres_connection_timeout": 100})
        with Frontdesk(down) as desk:
            client = create_app(desk).test_client()
            for response in every_route(client, f"/whatsapp/{salon.company_id}"):
                assert (response.status_code, code(response)) == (503, "unavailable")
                assert response.headers["Retry-After"] == "1"
                assert response.json["error"]["retryable"] is True
