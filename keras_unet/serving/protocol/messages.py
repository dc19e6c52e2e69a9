"""Messages of TensorFlow and TensorFlow Serving without their Python code: heavy, or not packaged.

They hold the fields that are read here, with the numbers and types of the projects' own .proto
files (saved_model, meta_graph, tensor_shape; prediction_log, predict, model; and
session_bundle_config, all of it); other fields are skipped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_PACKAGE = "keras_unet"
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
    "BatchingParameters": [
        ("max_batch_size", 1, "google.protobuf.Int64Value", False),
        ("batch_timeout_micros", 2, "google.protobuf.Int64Value", False),
        ("max_enqueued_batches", 3, "google.protobuf.Int64Value", False),
        ("num_batch_threads", 4, "google.protobuf.Int64Value", False),
        ("thread_pool_name", 5, "google.protobuf.StringValue", False),
        ("allowed_batch_sizes", 6, "int64", True),
        ("pad_variable_length_inputs", 7, "bool", False),
    ],
}


@cache
def message_type(kind: str) -> Any:
    """The class of a message: "SavedModel", "PredictionLog" or "BatchingParameters"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{kind}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    form = descriptor_pb2.FieldDescriptorProto
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_unet.proto", package=_PACKAGE, syntax="proto3", dependency=[wrappers.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = form.LABEL_REPEATED if repeated else form.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind[0].isupper() or "." in kind:
                added.type = form.TYPE_MESSAGE
                added.type_name = f".{kind}" if "." in kind else f".{_PACKAGE}.{kind}"
            else:
                added.type = form.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(wrappers)
    pool.Add(file)
    return pool
