"""Two WhatsApp devices with real Baileys, whose state is stored in the service, never lose a message."""

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from app import Frontdesk, Settings
from app.migrations import runner
from app.whatsapp.cleanup import clean_up
from app.whatsapp.encryption import Cipher
from app.whatsapp.import_folder import read_folder
from tests.e2e.baileys.conftest import TOKEN, Peer, PeerError, serving
from tests.servers import Server, execute

SALON, ANNA, BORIS = 1, 2, 3  # company ids; each device has the session of one company
GROUP = "12345-678@g.us"


@pytest.fixture
def whatsapp_settings(database_url: str) -> Settings:
    """Return settings of a database at head with three companies."""
    return prepare(database_url)


def prepare(database_url: str) -> Settings:
    """Create the three companies; return settings with an API token and an encryption key."""
    settings = Settings(
        database_url=SecretStr(database_url),
        whatsapp_api_token=SecretStr(TOKEN),
        whatsapp_encryption_keys=SecretStr(Fernet.generate_key().decode()),
    )
    with Frontdesk(settings) as desk:
        for company_id in (SALON, ANNA, BORIS):
            desk.company(company_id).upsert_company({"title": "Salon"}).unwrap()
    return settings


@pytest.fixture
def url(whatsapp_settings: Settings) -> Iterator[str]:
    """Serve Frontdesk; yield its address."""
    with serving(whatsapp_settings) as url:
        yield url


@pytest.fixture
def devices(url: str, peers: list[Peer]) -> tuple[Peer, Peer]:
    """Open the devices of the salon and of its client Anna. They have not exchanged a message yet."""
    salon, anna, _ = peers
    salon.open(url, SALON)
    anna.open(url, ANNA)
    return salon, anna


def send(sender: Peer, receiver: Peer, text: str) -> None:
    """Encrypt a message on one device, decrypt it on the other, and compare."""
    message = sender("encrypt", jid=receiver.jid, text=text)
    assert receiver("decrypt", jid=sender.jid, **message) == text


def begin(salon: Peer, client: Peer) -> None:
    """Send the client's first message, which uses one of the salon's pre-keys."""
    (bundle,) = salon("bundles", count=1)
    client("meet", jid=salon.jid, bundle=bundle)
    send(client, salon, "Hello, is 10:00 free?")


def rows(settings: Settings, company_id: int) -> set[tuple[str, str]]:
    """Return type and id of each stored key of a company."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        return set(
            connection.execute(
                "SELECT key_type, key_id FROM whatsapp_keys WHERE company_id = %s", (company_id,)
            ).fetchall()
        )


def test_a_conversation_continues_after_kills_between_messages(
    devices: tuple[Peer, Peer], whatsapp_settings: Settings
) -> None:
    salon, anna = devices
    begin(salon, anna)
    assert {key_type for key_type, _ in rows(whatsapp_settings, SALON)} == {"identity-key", "session"}
    salon.restart()
    send(salon, anna, "It is")
    anna.restart()
    send(salon, anna, "I mean, until eleven")
    send(anna, salon, "Good!")
    salon.restart()
    send(anna, salon, "… and thank you")


def test_a_group_conversation_continues_after_a_kill(devices: tuple[Peer, Peer]) -> None:
    salon, anna = devices
    message = salon("encryptForGroup", group=GROUP, me=salon.jid, text="We are open")
    assert anna("decryptFromGroup", group=GROUP, jid=salon.jid, **message) == "We are open"
    anna.restart()
    message = salon("encryptForGroup", group=GROUP, me=salon.jid, text="until eight")
    again = {"ciphertext": message["ciphertext"], "key": ""}
    assert anna("decryptFromGroup", group=GROUP, jid=salon.jid, **again) == "until eight"


def test_baileys_reads_back_every_type_of_value_unchanged(devices: tuple[Peer, Peer]) -> None:
    salon, _ = devices
    salon("roundTrip")


def test_a_session_in_files_is_imported_completely(
    devices: tuple[Peer, Peer], peers: list[Peer], url: str, whatsapp_settings: Settings, tmp_path: Path
) -> None:
    salon, _ = devices
    salon("writeFiles", folder=str(tmp_path))
    session = read_folder(tmp_path)
    assert not session.skipped
    with Frontdesk(whatsapp_settings) as desk:
        desk.company(BORIS).whatsapp.import_session(session.creds, session.keys).unwrap()
    boris = peers[2]
    boris.open(url, BORIS)
    boris("assertSameAsFiles", folder=str(tmp_path))


def test_a_session_with_buffers_stored_as_arrays_by_the_old_system_continues(
    devices: tuple[Peer, Peer], whatsapp_settings: Settings
) -> None:
    salon, anna = devices
    waiting, used = salon("bundles", count=2)
    anna("meet", jid=salon.jid, bundle=used)
    send(anna, salon, "Hello")
    assert whatsapp_settings.database_url is not None
    cipher = Cipher.from_settings(whatsapp_settings)
    with psycopg.connect(whatsapp_settings.database_url.get_secret_value()) as connection:
        for table, column in (("whatsapp_auth", "creds"), ("whatsapp_keys", "value")):
            for row_id, stored in connection.execute(f"SELECT id, {column} FROM {table}").fetchall():
                old = json.loads(cipher.decrypt(stored), object_hook=as_array)
                change = f"UPDATE {table} SET {column} = %s WHERE id = %s"
                connection.execute(change, (json.dumps(old).encode(), row_id))
    salon.restart()
    send(anna, salon, "Still there?")
    send(salon, anna, "Always")
    anna("meet", jid=salon.jid, bundle=waiting)
    send(anna, salon, "A new phone")


def as_array(value: dict[str, Any]) -> dict[str, Any]:
    """Convert a buffer from Baileys' JSON form (base64) to Node's own form (array of numbers)."""
    if value.get("type") == "Buffer":
        return {"type": "Buffer", "data": list(b64decode(value["data"]))}
    return value


def test_a_set_that_fails_stores_nothing(devices: tuple[Peer, Peer], whatsapp_settings: Settings) -> None:
    salon, _ = devices
    salon("bundles", count=1)
    before = rows(whatsapp_settings, SALON)
    assert whatsapp_settings.database_url is not None
    execute(
        whatsapp_settings.database_url.get_secret_value(),
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'half-way'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON whatsapp_keys FOR EACH ROW"
        " WHEN (new.key_type = 'session') EXECUTE FUNCTION fail()",
    )
    mutations = {"identity-key": {"7968.0": "k"}, "pre-key": {"1": None, "9": {}}, "session": {"7968.0": {}}}
    with pytest.raises(PeerError):
        salon("transaction", mutations=mutations)
    assert rows(whatsapp_settings, SALON) == before


def test_conversations_continue_after_ten_weeks_of_clean_up(
    devices: tuple[Peer, Peer], whatsapp_settings: Settings, url: str, peers: list[Peer]
) -> None:
    salon, anna = devices
    waiting, used = salon("bundles", count=2)
    anna("meet", jid=salon.jid, bundle=used)
    send(anna, salon, "Hello")
    send(salon, anna, "Hello!")
    for peer in devices:
        peer("transaction", mutations={"device-list": {"7968": ["0"]}, "sender-key-memory": {"g": {}}})
    assert whatsapp_settings.database_url is not None
    for _ in range(10):
        execute(
            whatsapp_settings.database_url.get_secret_value(),
            "UPDATE whatsapp_keys SET created_at = created_at - interval '1 week',"
            " updated_at = updated_at - interval '1 week', expires_at = expires_at - interval '1 week'",
        )
        clean_up(whatsapp_settings)
    assert {key_type for key_type, _ in rows(whatsapp_settings, SALON)} == {
        "identity-key",
        "pre-key",
        "session",
    }
    salon.restart()
    send(anna, salon, "It is me again")
    send(salon, anna, "Welcome back")
    boris = peers[2]
    boris.open(url, BORIS)
    boris("meet", jid=salon.jid, bundle=waiting)
    send(boris, salon, "My first message, with a pre-key of long ago")


def test_a_first_message_cannot_be_decrypted_without_its_pre_key(
    devices: tuple[Peer, Peer], whatsapp_settings: Settings
) -> None:
    salon, anna = devices
    (bundle,) = salon("bundles", count=1)
    anna("meet", jid=salon.jid, bundle=bundle)
    message = anna("encrypt", jid=salon.jid, text="Hello")
    assert whatsapp_settings.database_url is not None
    execute(
        whatsapp_settings.database_url.get_secret_value(),
        "DELETE FROM whatsapp_keys WHERE key_type = 'pre-key'",
    )
    with pytest.raises(PeerError, match="Invalid PreKey ID"):
        salon("decrypt", jid=anna.jid, **message)


def test_concurrent_saves_of_credentials_are_serialised(devices: tuple[Peer, Peer]) -> None:
    salon, _ = devices
    assert salon("saveOften", times=20) == 20
    salon("open")
    assert salon("saveOften", times=1) == 21


def test_writes_of_the_older_of_two_workers_fail(
    devices: tuple[Peer, Peer], url: str, peers: list[Peer]
) -> None:
    salon, anna = devices
    begin(salon, anna)
    second = peers[2]
    second.open(url, SALON)
    with pytest.raises(PeerError, match="Another worker") as refused:
        salon("saveOften", times=1)
    assert (refused.value.status, refused.value.code) == (409, "conflict")
    send(second, anna, "I am the salon now")


def test_the_next_open_after_a_logout_creates_a_new_device(devices: tuple[Peer, Peer]) -> None:
    salon, _ = devices
    first = salon("open")
    assert salon("open") == first
    salon("logout")
    assert salon("open") != first


@pytest.fixture
def own_server() -> Iterator[Server]:
    """Run a PostgreSQL server for this test only."""
    server = Server()
    yield server
    server.delete()


def test_an_outage_raises_errors_in_baileys_and_replaces_no_session(
    own_server: Server, peers: list[Peer]
) -> None:
    runner.upgrade(own_server.url)
    settings = prepare(own_server.url).model_copy(update={"postgres_connection_timeout": 1000})
    with serving(settings) as url:
        salon, anna, other = peers
        salon.open(url, SALON)
        anna.open(url, ANNA)
        begin(salon, anna)
        send(salon, anna, "Yes")
        message = anna("encrypt", jid=salon.jid, text="Then at ten")
        own_server.kill()
        with pytest.raises(PeerError) as failed:
            salon("get", type="session", ids=["7968.0"])
        assert (failed.value.status, failed.value.code) == (503, "unavailable")
        with pytest.raises(PeerError):
            salon("decrypt", jid=anna.jid, **message)
        unread = {"session": {"7968.0": {"a new session": "for a key whose read failed"}}}
        with pytest.raises(PeerError):
            salon("transaction", mutations=unread)
        with pytest.raises(PeerError) as failed:  # no new credentials are created
            other.open(url, SALON)
        assert failed.value.status == 503
        own_server.start()
        with pytest.raises(PeerError, match="had not been read"):
            salon("transaction", mutations=unread)
        assert salon("get", type="session", ids=["7968.0"]) == {}
        salon(
            "transaction", mutations=unread
        )  # allowed now, because a read has shown that the key is missing
        assert salon("decrypt", jid=anna.jid, **message) == "Then at ten"
        salon.restart()
        send(salon, anna, "See you")
