"""Letters with one cause are one group: the shape of an output, and nothing of whose it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.errors import NoModel
from services.extractor.outputs import find_model
from services.extractor.shape import shape_of
from services.ops.letters.fingerprint import fingerprint
from shared.contract.topology import EXTRACTOR_QUEUE


def failure(output: Any) -> NoModel:
    with pytest.raises(NoModel) as caught:
        find_model(output, destination=None, trainer=None, trainer_version=None)
    return caught.value


def group_of(output: Any) -> str:
    error = failure(output)
    return fingerprint(EXTRACTOR_QUEUE, error.code, type(error).__name__, str(error))


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (None, "null"),
        ("  ", "empty text"),
        ({"foo": 1}, "an object with foo (a number)"),
        ({"b": True, "a": {"c": "x"}}, "an object with a.c (text), b (true or false)"),
        (
            {"files": [{"url": "x"}, {"url": "y"}], "other": []},
            "an object with files[].url (text), other (an empty list)",
        ),
        (["x", "y", 1], "a list of a number, text"),
        ([{"a": 1}, {"a": None}], "a list of a (a number), a (null)"),
        ({"a": {"b": {"c": {"d": 1}}}}, "an object with a.b.c (an object)"),
        ({"Anna Smith.png": 1, "3f2a9c0b1d": 2, "x" * 33: 3}, "an object with * (a number)"),
    ],
)
def test_a_shape_is_names_and_types(output: Any, shape: str):
    assert shape_of(output) == shape


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"artifact": f"demo/x/versions/{'a' * 64}"}, {"artifact": f"shop/bob-2/versions/{'0f' * 32}"}),
        ({"files": ["a", "b"]}, {"files": ["c"] * 50}),
        ({"id": 1, "label": "of ada"}, {"label": "of bob", "id": 12345}),
        ({"user-17": "x"}, {"user-4242": "y"}),
        ({"version": "nonsense"}, {"version": "other nonsense"}),
    ],
)
def test_outputs_of_one_shape_are_one_group(one: Any, other: Any):
    assert group_of(one) == group_of(other)


def test_outputs_of_different_shapes_are_different_groups():
    artifact = {"artifact": f"demo/x/versions/{'a' * 64}"}
    outputs = [None, {"foo": 1}, {"foo": "x"}, artifact, [artifact], json.dumps(artifact), {"meta": artifact}]

    assert len({group_of(output) for output in outputs}) == len(outputs)


def test_the_text_says_what_was_seen_and_guesses_nothing():
    assert str(failure({"foo": 1})).startswith("an object with foo (a number): the output names no version. Look at")
    assert "may have deleted it" in str(failure(None))
    assert str(failure(json.dumps({"foo": 1}))).startswith("JSON in text, an object with foo (a number): ")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)


@given(_VALUES)
def test_whatever_the_output_its_shape_is_short_and_printable(output: Any):
    shape = shape_of(output)

    assert shape.isprintable()
    assert len(shape) < 1200


def test_a_large_output_has_a_short_shape():
    large: Any = {f"{'key' * 10}{chr(97 + n % 26)}{chr(97 + n // 26)}": {"x" * 32: {"y" * 32: n}} for n in range(600)}

    assert len(shape_of(large)) < 1000
    assert shape_of(large).endswith(", and more")
