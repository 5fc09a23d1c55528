"""Backups in object storage, through fsspec, and clean-up after failed uploads."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app.backup.errors import BackupError
from app.backup.storage import Storage
from tests.backup.conftest import Backup, Replace, create_backup, parse_json_output


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """Start moto's S3 server, point AWS's environment variables at it, and yield a new bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        storage = boto3.resource("s3")
        salons = storage.Bucket("salons")
        salons.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield salons
    server.stop()


@pytest.fixture
def location(
    bucket: Any, shared: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """Set BACKUP_ADDRESS to a folder of the bucket for this test only, and return the address."""
    address = f"s3://salons/{request.node.name}"
    monkeypatch.setenv("BACKUP_ADDRESS", address)
    return address


def uploads(bucket: Any) -> list[Any]:
    """Return the incomplete multipart uploads."""
    return list(bucket.multipart_uploads.all())


def test_all_commands_work_on_a_backup_in_object_storage(backup: Backup, location: str, bucket: Any) -> None:
    first, second = create_backup(backup), create_backup(backup)
    assert parse_json_output(backup("verify", "--json"))["good"] is True
    assert parse_json_output(backup("drill", "--json"))["good"] is True
    pruned = parse_json_output(backup("prune", "--keep", "1", "--json"))
    assert (pruned["deleted"], pruned["kept"], pruned["proven"]) == ([first], [second], second)
    listed = parse_json_output(backup("list", "--json"))
    assert (listed["at"], [entry["name"] for entry in listed["backups"]]) == (location, [second])


def test_verify_detects_a_flipped_bit_in_object_storage(backup: Backup, location: str, bucket: Any) -> None:
    made = create_backup(backup)
    stored = bucket.Object(f"{location.removeprefix('s3://salons/')}/{made}.dump")
    content = bytearray(stored.get()["Body"].read())
    content[len(content) // 2] ^= 1
    stored.put(Body=bytes(content))
    assert "SHA-256" in parse_json_output(backup("verify", "--json"), 1)["problems"][0]


def test_a_failed_upload_leaves_no_files_and_no_parts(
    backup: Backup, location: str, bucket: Any, replace: Replace
) -> None:
    replace("pg_dump", '"$REAL" "$@"; exit 1')
    assert backup("create").exit_code == 3
    assert list(bucket.objects.filter(Prefix=location.removeprefix("s3://salons/"))) == []
    assert uploads(bucket) == []


@pytest.mark.full
def test_a_multipart_upload_appears_complete_or_not_at_all(location: str, bucket: Any) -> None:
    block = bytes(range(256)) * 4096

    def write(times: int) -> None:
        with Storage(location).open_for_writing("large") as file:
            for _ in range(times):
                file.write(block)
            if times < 60:
                raise BackupError("The upload failed.")

    with pytest.raises(BackupError):
        write(55)
    assert uploads(bucket) == []
    write(60)
    assert Storage(location).file_sizes() == {"large": 60 * len(block)}


def test_the_error_names_a_bucket_that_does_not_exist(bucket: Any, shared: str, backup: Backup) -> None:
    refused = backup("list", "--at", "s3://no-such-bucket/x")
    assert refused.exit_code == 3
    assert "s3://no-such-bucket/x does not exist" in refused.stderr


@pytest.mark.parametrize(("scheme", "code"), [("s3", 2), ("ftp", 3)])
def test_output_never_contains_the_password_of_an_address(
    backup: Backup, shared: str, scheme: str, code: int
) -> None:
    refused = backup("list", "--at", f"{scheme}://user:secret@127.0.0.1:1/folder")
    assert refused.exit_code == code
    assert "secret" not in refused.output
