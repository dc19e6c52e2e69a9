"""Tensors of the protocol: NumPy arrays as TensorProto, and what a client gives as arrays.

Nothing that comes is believed: sizes are checked before memory is taken. `tf.make_ndarray` repeats
a lone value to whatever shape a message claims, and goes through Python for each number of
`float_val`; both matter to a server.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.errors import DataError
from keras_unet.serving.protocol.codes import invalid, too_large

STRING = 7  # DT_STRING
_KINDS: dict[int, tuple[str, Any]] = {  # of each DataType: its name, and NumPy's type
    1: ("float", np.float32),
    2: ("double", np.float64),
    3: ("int32", np.int32),
    4: ("uint8", np.uint8),
    5: ("int16", np.int16),
    6: ("int8", np.int8),
    STRING: ("string", np.object_),
    9: ("int64", np.int64),
    10: ("bool", np.bool_),
    17: ("uint16", np.uint16),
    19: ("half", np.float16),
    22: ("uint32", np.uint32),
    23: ("uint64", np.uint64),
}
_FIELDS = {1: "float_val", 2: "double_val", 9: "int64_val", 10: "bool_val"}
_FIELDS |= {22: "uint32_val", 23: "uint64_val", 19: "half_val", STRING: "string_val"}
_NUMBERS: dict[Any, int] = {np.dtype(kind): number for number, (_, kind) in _KINDS.items()}
_PACKED = {1: b"\x2a", 2: b"\x32"}  # wire tags of float_val and double_val
_TEXT = "SUO"  # kinds of arrays of strings


def type_name(number: int) -> str:
    """TensorFlow's name of a DataType number: 1 -> "float"."""
    return _KINDS[number][0] if number in _KINDS else f"type {number}"


def dtype_name(number: int) -> str:
    """NumPy's name of a DataType number: 1 -> "float32"; "string" for strings."""
    known = number in _KINDS and number != STRING
    return np.dtype(_KINDS[number][1]).name if known else type_name(number)


def numpy_type(number: int) -> Any:
    """The NumPy type of a DataType number; object for strings.

    Raises:
        Refused: a type that this server does not carry.
    """
    if number not in _KINDS:
        raise invalid(f"tensors of {type_name(number)} are not supported")
    return np.dtype(_KINDS[number][1])


def numpy_type_of(name: str) -> Any:
    """The NumPy type of a DataType's name in JSON: "DT_FLOAT"; object for strings.

    Raises:
        ValueError: a type that this package does not carry.
    """
    for known, kind in _KINDS.values():
        if name == f"DT_{known.upper()}":
            return np.dtype(kind)
    raise ValueError(f"tensors of {name} are not supported")


def to_array(name: str, proto: Any, expected: int, most_bytes: int) -> np.ndarray:
    """A TensorProto of the wire as an array; strings as an object array of bytes.

    Args:
        name: the input's, for messages.
        expected: the signature's DataType number.
        most_bytes: the largest array that may be made.

    Raises:
        Refused: another type, a shape that is negative, unknown, or does not fit the values.
    """
    if proto.dtype != expected:
        raise invalid(
            f"input {name!r}: expected a tensor of {type_name(expected)}, "
            f"found {type_name(proto.dtype)}"
        )
    if proto.tensor_shape.unknown_rank:
        raise invalid(f"input {name!r}: a tensor of unknown rank")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if len(shape) > 32 or any(n < 0 for n in shape):
        raise invalid(f"input {name!r}: shape {list(shape)[:33]} is no shape")
    kind, count = numpy_type(expected), prod(shape)
    if count * kind.itemsize > most_bytes:
        raise too_large(
            f"input {name!r}: shape {list(shape)} takes {count * kind.itemsize} bytes; "
            f"at most {most_bytes} are accepted"
        )
    if proto.tensor_content and expected != STRING:
        content = proto.tensor_content
        if len(content) != count * kind.itemsize:
            raise invalid(
                f"input {name!r}: {len(content)} bytes of content for shape {list(shape)}"
            )
        if kind == np.bool_:  # any other byte than 0 and 1 is not a bool
            return np.frombuffer(content, np.uint8).reshape(shape) != 0
        return np.frombuffer(content, kind).reshape(shape)
    return _from_values(name, proto, expected, kind, count).reshape(shape)


def _from_values(name: str, proto: Any, number: int, kind: Any, count: int) -> np.ndarray:
    values = getattr(proto, _FIELDS.get(number, "int_val"))
    if len(values) > count or (count and not len(values)):
        raise invalid(f"input {name!r}: {len(values)} values for {count} elements")
    if number == STRING:
        flat = np.empty(count, object)
        if len(values) not in (1, count):  # TensorFlow repeats the last; nobody means that
            raise invalid(f"input {name!r}: {len(values)} strings for {count} elements")
        flat[:] = list(values) * (count if len(values) == 1 else 1)
        return flat
    if number in _PACKED:  # the wire form of packed numbers is the array itself
        raw = type(proto)(**{_FIELDS[number]: values}).SerializeToString()
        given = np.frombuffer(raw[len(raw) - len(values) * kind.itemsize :], kind)
    else:
        given = np.fromiter(values, np.uint16 if number == 19 else object, len(values))
        if number == 19:
            given = given.view(np.float16)
        else:
            low_high = (0, 1) if kind == np.bool_ else (np.iinfo(kind).min, np.iinfo(kind).max)
            if any(not low_high[0] <= v <= low_high[1] for v in values):
                raise invalid(f"input {name!r}: a value does not fit {type_name(number)}")
            given = given.astype(kind)
    if len(given) == count:
        return given
    # as TensorFlow: the last value stands for the missing ones
    return np.concatenate([given, np.repeat(given[-1:], count - len(given))])


def to_proto(array: Any, *, content: bool = False) -> Any:
    """An array, or object array of bytes, as TensorProto.

    Args:
        content: numbers as `tensor_content`; otherwise in the typed field (`float_val` …), as
            TensorFlow Serving answers.
    """
    from tensorflow.core.framework import tensor_pb2

    array = np.asarray(array)
    proto = tensor_pb2.TensorProto()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype == object:
        proto.dtype = STRING
        proto.string_val.extend(array.ravel().tolist())
        return proto
    number = _NUMBERS[array.dtype]
    proto.dtype = number
    if content:
        proto.tensor_content = array.tobytes()
    elif number in _PACKED:
        raw = array.tobytes()
        if raw:
            proto.MergeFromString(_PACKED[number] + _varint(len(raw)) + raw)
    else:
        values = array.view(np.uint16) if number == 19 else array
        getattr(proto, _FIELDS.get(number, "int_val")).extend(values.ravel().tolist())
    return proto


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def as_tensor(name: str, value: Any) -> np.ndarray:
    """The array of an input; strings as an object array of bytes.

    Args:
        name: the input's, for messages.
        value: an array, or numbers or strings in lists of any depth. A string is bytes, a
            bytearray, text (sent as UTF-8), or a `Path`, whose file is read. Python's floats are
            sent as float32, its integers as int32.

    Raises:
        DataError: lists of unequal sizes, another kind of value, or a file that cannot be read.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in _TEXT:
        found = np.empty(value.shape, object)
        found.ravel()[:] = [_leaf(one) for one in value.ravel().tolist()]
        return _strings(name, found)
    if isinstance(value, np.ndarray):
        return _numbers(name, value)
    value = _leaf(value)
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, bytes):
        return _strings(name, np.array(value, object))
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(f"input {name!r}: lists of unequal sizes, or mixed with values") from None
    if type(first) is float:
        array = array.astype(np.float32)
    elif type(first) is int and array.dtype == np.int64 and _fit(array, np.int32):
        array = array.astype(np.int32)
    return _numbers(name, array)


def file_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason})") from None


def to_json(array: np.ndarray) -> Any:
    """An array as TensorFlow Serving's JSON has it: nested lists, strings as {"b64": …}."""
    if array.dtype != object:
        return array.tolist()
    return _each(array.tolist(), lambda data: {"b64": base64.b64encode(data).decode()})


def from_json(value: Any, kind: Any, shape: Sequence[int] | None) -> np.ndarray:
    """The array that a JSON answer holds.

    Args:
        kind: the NumPy type that the signature names; object for strings.
        shape: the signature's, -1 for what varies: JSON cannot tell (0, 3) from (0,).

    Raises:
        ValueError, TypeError, KeyError: other values than the signature says.
    """
    text = np.dtype(kind).kind == "O"
    array = np.array(_each(value, _bytes) if text else value, kind)
    if text and not all(isinstance(one, bytes) for one in array.ravel()):
        raise ValueError("lists of unequal sizes")
    if array.size == 0 and shape is not None and len(shape) >= array.ndim:
        array = array.reshape(array.shape + tuple(max(n, 0) for n in shape[array.ndim :]))
    return array


def _leaf(value: Any) -> Any:
    """Lists of lists with each string as bytes; other values as they are."""
    if isinstance(value, (list, tuple)):
        return [_leaf(one) for one in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return file_bytes(value) if isinstance(value, os.PathLike) else value


def _each(value: Any, function: Any) -> Any:
    return [_each(one, function) for one in value] if isinstance(value, list) else function(value)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):  # an output whose name does not end in _bytes
        return value.encode()
    return base64.b64decode(value["b64"])


def _strings(name: str, array: np.ndarray) -> np.ndarray:
    for one in array.ravel():
        if not isinstance(one, bytes):
            raise DataError(
                f"input {name!r}: found {type(one).__name__} among strings; expected bytes, text "
                "or paths, in lists of equal sizes"
            )
    return array


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"input {name!r}: found {array.dtype}; expected numbers or strings")
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _fit(array: np.ndarray, kind: Any) -> bool:
    limits = np.iinfo(kind)
    return array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)
