"""JSON of TensorFlow Serving: row ("instances") and column ("inputs") format, {"b64": …} bytes."""

from __future__ import annotations

import base64
import binascii
import json
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from keras_unet.serving.protocol.codes import invalid
from keras_unet.serving.protocol.tensors import STRING, numpy_type, type_name

_MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8
_BYTES = "_bytes"  # outputs with this ending are sent as {"b64": …}
_NO_SPACE = str.maketrans("", "", " \t\n\v\f\r")
_SHOWN = 80  # characters of a value in a message
_BRIEF = reprlib.Repr()  # takes no longer for a large or deep value
_BRIEF.maxstring = _BRIEF.maxother = _SHOWN


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """A request's JSON object. NaN and Infinity are read too, as TensorFlow Serving does.

    Raises:
        Refused: no JSON, nested too deeply, or not an object.
    """
    if body.startswith(_MARK):
        body = body[len(_MARK) :]
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not any(token in body for token in (b"NaN", b"Infinity")):
            raise invalid(f"JSON Parse error: {error}") from None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as other:
            raise invalid(f"JSON Parse error: {other}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a request names, or ""."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    return name


def inputs_of(document: dict[str, Any], infos: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """The arrays of a request.

    Args:
        document: what `parse` gave.
        infos: name -> TensorInfo of the signature's inputs.

    Returns:
        Whether the request is in row format, and {input: array}.

    Raises:
        Refused: neither or both formats, missing or unknown names, values of another type.
    """
    if ("instances" in document) == ("inputs" in document):
        if "inputs" in document:
            raise invalid("expecting only one of 'inputs' or 'instances' keys to exist")
        raise invalid("Missing 'inputs' or 'instances' key")
    if "instances" in document:
        return True, _rows(document["instances"], infos)
    return False, _columns(document["inputs"], infos)


def _rows(instances: Any, infos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list) or not instances:
        found = "no values" if instances == [] else _shown(instances)
        raise invalid(f"Expecting 'instances' to be a list with values; found {found}")
    named = _is_object(instances[0])
    if not named and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    for place, item in enumerate(instances):
        if _is_object(item) is not named:
            expected, found = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {found} at item {place} of input list")
        if named and set(item) != set(infos):
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. keys must be equal to: "
                + ",".join(sorted(infos))
            )
    if named:
        return {n: _array(n, [item[n] for item in instances], infos[n]) for n in infos}
    (name,) = infos
    return {name: _array(name, instances, infos[name])}


def _columns(inputs: Any, infos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not _is_object(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        (name,) = infos
        return {name: _array(name, inputs, infos[name])}
    for name in infos:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(name, inputs[name], infos[name]) for name in infos}


def _array(name: str, values: Any, info: Any) -> np.ndarray:
    if info.dtype == STRING:
        shape, value = [], values
        while isinstance(value, list):
            shape.append(len(value))
            value = value[0] if value else None
        if len(shape) > 32:
            raise invalid(f"input {name!r}: nested {len(shape)} deep")
        flat: list[bytes] = []
        _strings(name, values, shape, flat)
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    kind = numpy_type(info.dtype)
    _no_text(name, values, info)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # ragged, or nested too deeply
        raise invalid(f"input {name!r}: lists of unequal sizes, or mixed with values") from None
    if array.size == 0:
        array = array.astype(kind)
    allowed = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[kind.kind]
    if array.dtype.kind not in allowed:
        raise invalid(
            f"input {name!r}: JSON Value: {_shown(values)} is not of expected type: "
            f"{type_name(info.dtype)}"
        )
    if kind.kind in "iu" and array.size:
        limits = np.iinfo(kind)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise invalid(f"input {name!r}: a value does not fit {type_name(info.dtype)}")
    if kind.kind == "f" and array.size:
        finite = array[np.isfinite(array)]
        if finite.size and float(np.abs(finite).max()) > float(np.finfo(kind).max):
            raise invalid(f"input {name!r}: a value is too large for {type_name(info.dtype)}")
    return array.astype(kind)


def _no_text(name: str, values: Any, info: Any) -> None:
    """Refuses texts among numbers: NumPy would make every number as wide as the longest of them.

    Ten thousand numbers and one text of 100,000 letters, a tenth of a megabyte, would take 4 GB.
    """
    try:
        text = orjson.dumps(values)
    except TypeError:
        raise invalid(f"input {name!r}: nested too deeply, or a number beyond 64 bits") from None
    start = text.find(b'"')
    if start >= 0:
        found = text[start : text.index(b'"', start + 1) + 1].decode("utf-8", "replace")
        raise invalid(
            f"input {name!r}: JSON Value: {found[:_SHOWN]} is not of expected type: "
            f"{type_name(info.dtype)}"
        )


def _strings(name: str, value: Any, shape: list[int], out: list[bytes]) -> None:
    if not shape:
        out.append(_bytes(name, value))
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise invalid(f"input {name!r}: lists of unequal sizes, or mixed with values")
    for item in value:
        _strings(name, item, shape[1:], out)


def _bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return _decoded(value["b64"])
        except (binascii.Error, ValueError):
            raise invalid(f"input {name!r}: Unable to base64 decode") from None
    raise invalid(f"input {name!r}: JSON Value: {_shown(value)} is not of expected type: string")


def _decoded(text: str) -> bytes:
    """base64 as TensorFlow Serving's parser takes it: lines, spaces, and no or dotted padding too.

    Raises:
        ValueError: other letters, or too few or too many.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        text = text.translate(_NO_SPACE)
        letters = text.rstrip("=.")
        missing = -len(letters) % 4
        if len(text) - len(letters) not in (0, missing):
            raise
        return base64.b64decode(letters + "=" * missing, validate=True)


def answer(rows: bool, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The response's JSON, in the format of the request.

    Raises:
        Refused: row format needs outputs of equal batch size.
    """
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if not rows:
        values = next(iter(plain.values())) if len(plain) == 1 else plain
        return dump({"outputs": values})
    sizes = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if None in sizes or len(sizes) != 1:
        raise invalid(
            "Tensors of unequal or no batch size cannot be sent in row format: use 'inputs'"
        )
    if len(plain) == 1:
        return dump({"predictions": next(iter(plain.values()))})
    (size,) = sizes
    return dump(
        {"predictions": [{name: plain[name][row] for name in plain} for row in range(size or 0)]}
    )


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype == object:
        return _text(array.tolist(), name.endswith(_BYTES))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _Special(array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array) if array.ndim else array[()]


class _Special:
    """An array with NaN or infinite values, which strict JSON cannot hold."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, row: int) -> _Special:
        return _Special(self.array[row])

    def tolist(self) -> Any:
        # the shortest text of a float32 is not that of the equal float64
        texts = self.array.astype(str).astype(np.float64)
        return texts.tolist()


def _text(value: Any, binary: bool) -> Any:
    if isinstance(value, list):
        return [_text(item, binary) for item in value]
    if binary:
        return {"b64": base64.b64encode(value).decode()}
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid("an output is binary, but its name does not end in _bytes") from None


def dump(document: Any) -> bytes:
    """JSON, with NumPy arrays as lists."""
    try:
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a _Special in it
        return json.dumps(document, default=lambda v: v.tolist()).encode()


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def _shown(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    text = _BRIEF.repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
