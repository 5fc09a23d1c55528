"""Buffers: every writing in, base64 out, everything else untouched at any depth."""

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


WRITINGS: list[Callable[[bytes], Any]] = [
    base64,
    lambda data: {"type": "Buffer", "data": list(data)},
    lambda data: {str(index): byte for index, byte in enumerate(data)} if data else base64(data),
    bytes,
]

texts = st.text(st.characters(exclude_categories=()), max_size=5)  # half surrogate pairs, too
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts
finite = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))
buffers = st.binary(max_size=40)
names = texts.filter(lambda name: not name.isdecimal())


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda t: st.lists(t, max_size=4) | st.dictionaries(names, t, max_size=4), max_leaves=20
    )


def written(tree: Any, writing: Callable[[bytes], Any]) -> Any:
    """The tree as one of the old stores would have it."""
    if isinstance(tree, bytes):
        return writing(tree)
    if isinstance(tree, dict):
        return {name: written(value, writing) for name, value in tree.items()}
    return [written(value, writing) for value in tree] if isinstance(tree, list) else tree


@given(trees(finite | buffers), st.sampled_from(WRITINGS))
def test_what_baileys_wrote_is_what_baileys_reads_whatever_the_writing(
    tree: Any, writing: Callable[[bytes], Any]
) -> None:
    assert decode(encode(written(tree, writing))) == written(tree, base64)


@given(trees(finite))
def test_a_value_without_buffers_stays_the_very_same_object(tree: Any) -> None:
    before = json.dumps(tree)
    assert normalise_buffers(tree) is tree
    assert json.dumps(tree) == before


@given(trees(finite | buffers))
def test_the_given_value_is_not_changed(tree: Any) -> None:
    value = written(tree, WRITINGS[1])
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
def test_what_only_looks_like_a_buffer_is_left_alone(value: Any) -> None:
    assert normalise_buffers(value) is value
    assert decode(encode(value)) == value


@pytest.mark.parametrize("length", [0, 1, 11, 300])
@pytest.mark.parametrize("writing", WRITINGS)
def test_bytes_come_in_their_own_order_and_empty_ones_too(
    writing: Callable[[bytes], Any], length: int
) -> None:
    data = bytes(number % 256 for number in range(length))
    value = writing(data)
    if isinstance(value, dict):
        value = dict(sorted(value.items(), reverse=True))  # other stores reorder keys
    assert normalise_buffers({"deep": [value]}) == {"deep": [base64(data)]}


def test_nesting_has_a_limit_far_beyond_what_baileys_writes() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert normalise_buffers(value) is value
    with pytest.raises(InvalidInputError, match="nested deeper"):
        normalise_buffers([value])


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": object()}, {("a",): 1}, {1, 2}])
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        encode(value)


def test_an_error_does_not_show_the_value() -> None:
    with pytest.raises(InvalidInputError) as refused:
        decode(b'{"secret": tru')
    assert "secret" not in refused.value.message
