"""Reads TensorFlow Serving's batching parameters file (a BatchingParameters text proto)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from keras_unet.disk import read_text
from keras_unet.errors import ConfigError
from keras_unet.serving.server.settings import Batching

# number and name of each field in session_bundle_config.proto; its Python code is not packaged
_WRAPPED = {
    1: "max_batch_size",
    2: "batch_timeout_micros",
    3: "max_enqueued_batches",
    4: "num_batch_threads",
}
_UNBOUNDED = 1 << 62
_FILE = "keras_unet/batching_parameters.proto"


def read_batching(file: Path) -> Batching:
    """The file's parameters; what it leaves out keeps this server's default.

    Batches are bounded by images alone then, as TensorFlow Serving's are.

    Raises:
        ConfigError: not such a file, or it pads images (whose borders are mirrored, not padded).
    """
    from google.protobuf import text_format

    try:
        parameters = text_format.Parse(read_text(file), _message())
    except (OSError, text_format.ParseError) as error:
        raise ConfigError(f"{file}: not a batching parameters file ({error})") from error
    if parameters.pad_variable_length_inputs:
        raise ConfigError(f"{file}: pad_variable_length_inputs would change the masks at borders")
    given: dict[str, Any] = {"max_batch_pixels": _UNBOUNDED} | {
        name: getattr(parameters, name).value
        for name in _WRAPPED.values()
        if parameters.HasField(name)
    }
    if parameters.allowed_batch_sizes:
        given["allowed_batch_sizes"] = tuple(parameters.allowed_batch_sizes)
    try:
        return Batching.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{file}: {error}") from error


def _message() -> Any:
    from google.protobuf import (
        descriptor_pb2,
        descriptor_pool,
        message_factory,
        wrappers_pb2,  # noqa: F401  registers the wrapper types
    )

    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName("keras_unet.BatchingParameters")
    except KeyError:
        field = descriptor_pb2.FieldDescriptorProto
        kinds = {number: (name, "Int64Value") for number, name in _WRAPPED.items()}
        kinds[5] = ("thread_pool_name", "StringValue")
        proto = descriptor_pb2.FileDescriptorProto(
            name=_FILE,
            package="keras_unet",
            syntax="proto3",
            dependency=["google/protobuf/wrappers.proto"],
        )
        message = proto.message_type.add(name="BatchingParameters")
        for number, (name, kind) in kinds.items():
            message.field.add(
                name=name,
                number=number,
                label=field.LABEL_OPTIONAL,
                type=field.TYPE_MESSAGE,
                type_name=f".google.protobuf.{kind}",
            )
        message.field.add(
            name="allowed_batch_sizes",
            number=6,
            label=field.LABEL_REPEATED,
            type=field.TYPE_INT64,
        )
        message.field.add(
            name="pad_variable_length_inputs",
            number=7,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_BOOL,
        )
        pool.Add(proto)
        descriptor = pool.FindMessageTypeByName("keras_unet.BatchingParameters")
    return message_factory.GetMessageClass(descriptor)()
