"""What goes into a request and comes out of an answer: arrays, whatever they were given as."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.errors import DataError

_TEXT = "SUO"  # kinds of arrays of strings


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
