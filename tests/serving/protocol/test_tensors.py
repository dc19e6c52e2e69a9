"""TensorProto and arrays: as TensorFlow reads and writes them, and nothing a message claims."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2

from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.protocol.tensors import to_array, to_proto

MOST = 1 << 20
TYPES = ["float32", "float64", "float16", "int32", "int64", "uint8", "int16", "uint32", "bool"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TYPES).flatmap(
        lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    st.booleans(),
)
def test_arrays_travel_as_tensorflow_reads_and_writes_them(array, content):
    proto = to_proto(array, content=content)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    back = to_array("x", tf.make_tensor_proto(array), proto.dtype, MOST)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    again = to_array("x", proto, proto.dtype, MOST)
    np.testing.assert_array_equal(again, array)


def test_floats_are_sent_in_float_val_as_tensorflow_serving_does():
    proto = to_proto(np.float32([0.5, 2]))
    assert list(proto.float_val) == [0.5, 2] and not proto.tensor_content
    assert to_proto(np.float32([0.5, 2]), content=True).tensor_content


def test_strings_travel():
    proto = to_proto(np.array([[b"\x00\xff"], [b""]], object))
    array = to_array("x", proto, 7, MOST)
    assert array.tolist() == [[b"\x00\xff"], [b""]]
    assert tf.make_ndarray(proto).tolist() == array.tolist()


def test_a_last_value_stands_for_the_missing_ones_as_in_tensorflow():
    proto = tf.make_tensor_proto(np.zeros(0, np.float32))
    proto.tensor_shape.dim[0].size = 5
    proto.float_val.extend([1.0, 2.0])
    expected = tf.make_ndarray(proto)
    np.testing.assert_array_equal(to_array("x", proto, 1, MOST), expected)


def tensor(dtype=1, shape=(1,), **fields):
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


@pytest.mark.parametrize(
    ("proto", "code", "message"),
    [
        (tensor(shape=(1 << 40,), float_val=[1.0]), Code.RESOURCE_EXHAUSTED, "at most"),
        (tensor(shape=(1 << 62, 1 << 62), float_val=[1.0]), Code.RESOURCE_EXHAUSTED, "at most"),
        (tensor(shape=(-1,), float_val=[1.0]), Code.INVALID_ARGUMENT, "is no shape"),
        (tensor(shape=(1,) * 300, float_val=[1.0]), Code.INVALID_ARGUMENT, "is no shape"),
        (tensor(shape=(2,), tensor_content=b"123"), Code.INVALID_ARGUMENT, "3 bytes of content"),
        (tensor(shape=(2,)), Code.INVALID_ARGUMENT, "0 values for 2"),
        (tensor(shape=(1,), float_val=[1, 2]), Code.INVALID_ARGUMENT, "2 values for 1"),
        (tensor(dtype=3, int_val=[1]), Code.INVALID_ARGUMENT, "of float, found int32"),
        (tensor(dtype=20), Code.INVALID_ARGUMENT, "of float, found type 20"),
    ],
)
def test_what_a_message_claims_is_checked_first(proto, code, message):
    with pytest.raises(Refused, match=message) as caught:
        to_array("x", proto, 1, MOST)
    assert caught.value.code is code


def test_values_that_do_not_fit_their_type_are_refused():
    with pytest.raises(Refused, match="does not fit uint8"):
        to_array("x", tensor(dtype=4, int_val=[256]), 4, MOST)


def test_bytes_that_are_no_bool_become_true():
    array = to_array("x", tensor(dtype=10, shape=(3,), tensor_content=b"\x00\x01\x07"), 10, MOST)
    assert array.tolist() == [False, True, True]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([1, 3, 7, 10]))
def test_any_message_is_an_array_or_refused(data, expected):
    try:
        proto = tensor_pb2.TensorProto.FromString(data)
    except Exception:
        return
    try:
        array = to_array("x", proto, expected, MOST)
    except Refused:
        return
    assert array.nbytes <= MOST
