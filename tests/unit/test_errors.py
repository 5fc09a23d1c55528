"""Errors of the driver become FrontdeskErrors by SQLSTATE, without values."""

from collections.abc import Iterator

import psycopg
import psycopg.errors
import psycopg_pool
import pytest
import sqlalchemy.exc

from app import errors
from app.errors import ClientDeadlineExceeded, FrontdeskError, InvalidInputError, to_frontdesk_error

CODES = {
    "invalid",
    "unknown_company",
    "not_found",
    "slot_taken",
    "conflict",
    "unavailable",
    "timeout",
    "fenced",
    "internal",
}


def tree(kind: type[FrontdeskError] = FrontdeskError) -> Iterator[type[FrontdeskError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def raised(sqlstate: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)("DETAIL: Key (phone)=(+79686484488) already exists")


@pytest.mark.parametrize("kind", [*tree()])
def test_every_error_has_a_known_code_and_a_message(kind: type[FrontdeskError]) -> None:
    assert kind.code in CODES
    assert len(kind().message) > 10
    assert str(kind("as given")) == kind("as given").message == "as given"


def test_every_documented_code_is_used() -> None:
    assert {kind.code for kind in tree()} == CODES


@pytest.mark.parametrize(
    ("sqlstate", "code", "retryable"),
    [
        ("23P01", "slot_taken", False),
        ("23505", "conflict", True),
        ("23503", "conflict", False),
        ("23514", "invalid", False),
        ("22003", "invalid", False),
        ("22P02", "invalid", False),
        ("40001", "conflict", True),
        ("40P01", "conflict", True),
        ("55P03", "timeout", True),
        ("57014", "timeout", True),
        ("57P01", "unavailable", True),
        ("57P03", "unavailable", True),
        ("08006", "unavailable", True),
        ("53100", "unavailable", True),
        ("53300", "unavailable", True),
        ("28P01", "unavailable", False),
        ("3D000", "unavailable", False),
        ("42P01", "internal", False),
        ("42601", "internal", False),
        ("XX000", "internal", False),
    ],
)
def test_the_sqlstate_determines_the_error(sqlstate: str, code: str, retryable: bool) -> None:
    raw = raised(sqlstate)
    for error in (raw, sqlalchemy.exc.DBAPIError("SELECT", {"phone": "+79686484488"}, raw)):
        ours = to_frontdesk_error(error)
        assert (ours.code, ours.retryable) == (code, retryable)
        assert "9686484488" not in ours.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.OperationalError("connection refused"), "unavailable"),
        (psycopg_pool.PoolTimeout("30 s"), "unavailable"),
        (ClientDeadlineExceeded("silent"), "timeout"),
        (psycopg.ProgrammingError("cannot adapt"), "internal"),
        (ValueError("+79686484488"), "internal"),
        (InvalidInputError("as it is"), "invalid"),
    ],
)
def test_without_a_sqlstate_the_exception_class_determines_the_error(error: Exception, code: str) -> None:
    assert to_frontdesk_error(error).code == code
    assert "9686484488" not in to_frontdesk_error(error).message


def test_the_message_names_all_invalid_fields() -> None:
    error = InvalidInputError(fields={"name": "required", "phone": "is not a phone number"})
    assert error.message == "name: required; phone: is not a phone number"
