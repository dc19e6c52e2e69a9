"""The parts of SavedModel's protocol buffers that `describe` reads, without importing TensorFlow.

Messages hold the fields that are wanted, with the numbers and types of TensorFlow's own .proto
files (saved_model, meta_graph, tensor_shape; prediction_log, predict, model); others are skipped.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "keras_unet.wire"
# message -> (field, number, type, whether repeated); a type with a capital is another message
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "Dim": [("size", 1, "int64", False)],
    "Shape": [("dim", 2, "Dim", True), ("unknown_rank", 3, "bool", False)],
    "TensorInfo": [("dtype", 2, "int32", False), ("shape", 3, "Shape", False)],
    "TensorEntry": [("key", 1, "string", False), ("value", 2, "TensorInfo", False)],
    "Signature": [
        ("inputs", 1, "TensorEntry", True),
        ("outputs", 2, "TensorEntry", True),
        ("method_name", 3, "string", False),
    ],
    "SignatureEntry": [("key", 1, "string", False), ("value", 2, "Signature", False)],
    "MetaInfo": [("tags", 4, "string", True), ("tensorflow_version", 5, "string", False)],
    "MetaGraph": [
        ("meta_info_def", 1, "MetaInfo", False),
        ("signature_def", 5, "SignatureEntry", True),
    ],
    "SavedModel": [("schema", 1, "int64", False), ("meta_graphs", 2, "MetaGraph", True)],
    "ModelSpec": [("name", 1, "string", False), ("signature_name", 3, "string", False)],
    "Predict": [("model_spec", 1, "ModelSpec", False)],
    "PredictLog": [("request", 1, "Predict", False)],
    "PredictionLog": [("predict_log", 6, "PredictLog", False)],
}
_TYPES = {
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "bool": _FIELD.TYPE_BOOL,
    "string": _FIELD.TYPE_STRING,
}
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string", 9: "int64", 10: "bool"}


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_unet_wire.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = _FIELD.TYPE_MESSAGE
                added.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def parse(kind: str, data: bytes) -> Any:
    """A message "SavedModel" or "PredictionLog".

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    return _classes()[kind].FromString(data)


def dtype_name(code: int) -> str:
    """TensorFlow's DataType as NumPy's name."""
    return _DTYPES.get(code, f"type {code}")
