"""Buffers: all forms are read, base64 is written, and other values are unchanged at any depth."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInputError
from app.whatsapp.baileys_json import MAX_DEPTH, decode, encode, normalise_buffers


def base64(data: bytes) -> dict[str, Any]:
    return {"type": "Buffer", "data": b64encode(data).decode()}


FORMS: list[Callable[[bytes], Any]] = [
    base64,
    lambda data: {"type": "Buffer", "data": list(data)},
    lambda data: {str(index): byte for index, byte in enumerate(data)} if data else base64(data),
    bytes,
]

texts = st.text(st.characters(exclude_categories=()), max_size=5)  # including unpaired surrogates
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts
finite = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))
buffers = st.binary(max_size=40)
names = texts.filter(lambda name: not name.isdecimal())


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda t: st.lists(t, max_size=4) | st.dictionaries(names, t, max_size=4), max_leaves=20
    )


def in_form(tree: Any, form: Callable[[bytes], Any]) -> Any:
    """Return a copy of the tree in which every buffer has this form."""
    if isinstance(tree, bytes):
        return form(tree)
    if isinstance(tree, dict):
        return {name: in_form(value, form) for name, value in tree.items()}
    return [in_form(value, form) for value in tree] if isinstance(tree, list) else tree


@given(trees(finite | buffers), st.sampled_from(FORMS))
def test_buffers_of_every_form_are_stored_in_base64(tree: Any, form: Callable[[bytes], Any]) -> None:
    assert decode(encode(in_form(tree, form))) == in_form(tree, base64)


@given(trees(finite))
def test_a_value_without_buffers_is_returned_as_the_same_object(tree: Any) -> None:
    before = json.dumps(tree)
    assert normalise_buffers(tree) is tree
    assert json.dumps(tree) == before


@given(trees(finite | buffers))
def test_the_argument_is_not_modified(tree: Any) -> None:
    value = in_form(tree, FORMS[1])
    before = json.dumps(value)
    normalise_buffers(value)
    assert json.dumps(value) == before


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"0": True, "1": False},
        {"0": 256},
        {"0": -1},
        {"0": 1.0},
        {"0": "1"},
        {"1": 1},
        {"0": 1, "2": 2},
        {"00": 1},
        {"0": 1, "length": 1},
        {"type": "Buffer"},
        {"type": "Buffer", "data": None},
        {"type": "Buffer", "data": [256]},
        {"type": "Buffer", "data": [True]},
        {"type": "Buffer", "data": ["1"]},
        {"type": "Buffer", "data": [1], "more": 1},
        {"type": "buffer", "data": [1]},
        {"data": [1, 2]},
        [1, 2, 3],
        "AQI=",
    ],
    ids=repr,
)
def test_a_value_that_only_resembles_a_buffer_is_unchanged(value: Any) -> None:
    assert normalise_buffers(value) is value
    assert decode(encode(value)) == value


@pytest.mark.parametrize("length", [0, 1, 11, 300])
@pytest.mark.parametrize("form", FORMS)
def test_bytes_keep_their_order_if_a_store_reorders_keys(form: Callable[[bytes], Any], length: int) -> None:
    data = bytes(number % 256 for number in range(length))
    value = form(data)
    if isinstance(value, dict):
        value = dict(sorted(value.items(), reverse=True))  # JSONB may reorder keys
    assert normalise_buffers({"deep": [value]}) == {"deep": [base64(data)]}


def test_the_depth_of_nesting_is_limited() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert normalise_buffers(value) is value
    with pytest.raises(InvalidInputError, match="nested deeper"):
        normalise_buffers([value])


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": object()}, {("a",): 1}, {1, 2}])
def test_a_value_that_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        encode(value)


def test_an_error_does_not_contain_the_value() -> None:
    with pytest.raises(InvalidInputError) as refused:
        decode(b'{"secret": tru')
    assert "secret" not in refused.value.message
