"""JSON in TensorFlow Serving's row and column format."""

from __future__ import annotations

import base64
import json
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from keras_unet.serving.protocol.codes import Code, Refused, as_refused
from keras_unet.serving.protocol.json_tensors import answer, inputs_of, parse, signature_name


def infos(**types):
    return {
        name: meta_graph_pb2.TensorInfo(dtype=tf.dtypes.as_dtype(kind).as_datatype_enum)
        for name, kind in types.items()
    }


def read(document, **types):
    return inputs_of(parse(json.dumps(document).encode()), infos(**types))


def test_the_documented_row_requests():
    rows, arrays = read({"instances": ["foo", "bar", "baz"]}, x=tf.string)
    assert rows and arrays["x"].tolist() == [b"foo", b"bar", b"baz"]
    rows, arrays = read({"instances": [[[1, 2]], [[3, 4]]]}, x=tf.float32)
    assert arrays["x"].shape == (2, 1, 2) and arrays["x"].dtype == np.float32
    item = {"tag": "foo", "signal": [1, 2, 3], "sensor": [[1, 2], [3, 4]]}
    types = {"tag": tf.string, "signal": tf.int64, "sensor": tf.float32}
    rows, arrays = read({"instances": [item, item]}, **types)
    assert {k: a.shape for k, a in arrays.items()} == {
        "tag": (2,),
        "signal": (2, 3),
        "sensor": (2, 2, 2),
    }


def test_the_documented_column_requests():
    document = {"inputs": {"tag": ["foo", "bar"], "signal": [[1, 2, 3]]}}
    rows, arrays = read(document, tag=tf.string, signal=tf.int32)
    assert not rows and arrays["signal"].shape == (1, 3) and arrays["signal"].dtype == np.int32
    _, arrays = read({"inputs": 3}, x=tf.float32)
    assert arrays["x"].shape == ()


def test_bytes_are_base64():
    data = bytes(range(256))
    b64 = {"b64": base64.b64encode(data).decode()}
    assert read({"instances": [b64]}, x=tf.string)[1]["x"].tolist() == [data]
    assert read({"instances": [{"x": b64}]}, x=tf.string)[1]["x"].tolist() == [data]
    assert read({"inputs": {"x": [b64, b64]}}, x=tf.string)[1]["x"].tolist() == [data, data]
    with pytest.raises(Refused, match="Unable to base64 decode"):
        read({"instances": [{"b64": "?"}]}, x=tf.string)


@pytest.mark.parametrize(
    ("document", "types", "message"),
    [
        ({}, {"x": tf.float32}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": [1]}, {"x": tf.float32}, "only one of"),
        ({"instances": 1}, {"x": tf.float32}, "to be a list"),
        ({"instances": []}, {"x": tf.float32}, "no values"),
        ({"instances": [[1], [1, 2]]}, {"x": tf.float32}, "unequal sizes"),
        ({"instances": [[1], 1]}, {"x": tf.float32}, "unequal sizes"),
        ({"instances": ["1"]}, {"x": tf.float32}, "not of expected type: float"),
        ({"instances": [True]}, {"x": tf.float32}, "not of expected type: float"),
        ({"instances": [None]}, {"x": tf.float32}, "not of expected type: float"),
        ({"instances": [1.5]}, {"x": tf.int32}, "not of expected type: int32"),
        ({"instances": [1 << 40]}, {"x": tf.int32}, "does not fit int32"),
        ({"instances": [1e300]}, {"x": tf.float32}, "too large for float"),
        ({"instances": [1]}, {"x": tf.string}, "not of expected type: string"),
        ({"instances": [["a"], "b"]}, {"x": tf.string}, "unequal sizes"),
        ({"instances": [1]}, {"x": tf.float32, "y": tf.float32}, "list of objects"),
        ({"instances": [{"y": 1}]}, {"x": tf.float32}, "keys must be equal to: x"),
        ({"instances": [{"x": 1}, 1]}, {"x": tf.float32}, "Expecting object but got list"),
        ({"instances": [1, {"x": 1}]}, {"x": tf.float32}, "Expecting value/list but got object"),
        ({"inputs": {"y": 1}}, {"x": tf.float32}, "Missing named input: x"),
    ],
)
def test_what_does_not_fit_is_refused(document, types, message):
    with pytest.raises(Refused, match=message) as caught:
        read(document, **types)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_numbers_that_json_has_not_are_read_and_written():
    document = parse(b'{"instances": [NaN, Infinity, -Infinity, 0.1]}')
    array = inputs_of(document, infos(x=tf.float32))[1]["x"]
    np.testing.assert_array_equal(array, np.float32([np.nan, np.inf, -np.inf, 0.1]))
    text = answer(True, {"y": array})
    assert text == b'{"predictions": [NaN, Infinity, -Infinity, 0.1]}'


def test_floats_are_written_as_short_as_their_type_allows():
    assert answer(False, {"y": np.float32([0.1, 2])}) == b'{"outputs":[0.1,2.0]}'


def test_answers_have_the_documented_form():
    outputs = {"a": np.arange(2), "b_bytes": np.array([b"\xff", b"x"], object)}
    rows = json.loads(answer(True, outputs))["predictions"]
    assert rows[0] == {"a": 0, "b_bytes": {"b64": "/w=="}}
    columns = json.loads(answer(False, outputs))["outputs"]
    assert columns == {"a": [0, 1], "b_bytes": [{"b64": "/w=="}, {"b64": "eA=="}]}
    assert json.loads(answer(True, {"s": np.array([b"text"], object)})) == {"predictions": ["text"]}
    with pytest.raises(Refused, match="row format"):
        answer(True, {"a": np.arange(2), "b": np.arange(3)})


def test_a_text_among_numbers_takes_no_memory():
    """NumPy would give each of the numbers the width of the text: 200 MB here."""
    body = json.dumps({"instances": [1] * 1000 + ["x" * 50_000]}).encode()
    document = parse(body)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match='JSON Value: "xxx.*not of expected type: float'):
            inputs_of(document, infos(x=tf.float32))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tf.float32, tf.string])
def test_deep_objects_are_refused(kind):
    body = b'{"inputs": {"x": ' + b'{"a": ' * 900 + b"1" + b"}" * 902
    with pytest.raises(Refused) as caught:
        inputs_of(parse(body), infos(x=kind))
    assert caught.value.code is Code.INVALID_ARGUMENT and len(caught.value.message) < 300


def test_text_that_is_no_unicode_is_an_invalid_argument():
    document = parse(b'{"instances": ["\\ud800"], "x": NaN}')
    with pytest.raises(UnicodeError) as caught:
        inputs_of(document, infos(x=tf.string))
    assert as_refused(caught.value).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("token", [b"[", b'{"instances":', b"NaN["])
def test_deep_json_is_refused(token):
    with pytest.raises(Refused, match="JSON Parse error"):
        parse(b'{"instances": [NaN, ' + token * 100_000)
    depth = 900  # what the parser still takes
    body = b'{"instances": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
    for kind in (tf.float32, tf.string):
        with pytest.raises(Refused):
            inputs_of(parse(body), infos(x=kind))


def test_a_signature_is_a_name():
    assert signature_name({"signature_name": "a"}) == "a"
    with pytest.raises(Refused, match="must be a string"):
        signature_name({"signature_name": 100})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "x"]), VALUES),
    st.sampled_from([tf.float32, tf.int32, tf.uint8, tf.bool, tf.string]),
)
def test_any_document_is_read_or_refused(document, kind):
    try:
        body = json.dumps(document).encode()
        _, arrays = inputs_of(parse(body), infos(x=kind))
    except Refused as refused:
        assert refused.code is Code.INVALID_ARGUMENT
    else:
        assert arrays["x"].dtype == (object if kind == tf.string else kind.as_numpy_dtype)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_body_is_read_or_refused(body):
    try:
        assert isinstance(parse(body), dict)
    except Refused as refused:
        assert refused.code is Code.INVALID_ARGUMENT
