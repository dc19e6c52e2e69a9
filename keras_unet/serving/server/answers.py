"""Answers that gRPC and REST share: a model's status and its signatures, as TF Serving's protos."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from keras_unet.serving.server.manager import Manager
from keras_unet.serving.server.versions import Version


def status(manager: Manager, spec: Any) -> Any:
    """GetModelStatusResponse for a ModelSpec.

    Raises:
        Refused: no such model, version or label.
    """
    number = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state, code, message in manager.status(spec.name, number, spec.version_label):
        one = response.model_version_status.add()
        one.version = version
        one.state = state.value
        one.status.error_code = code.value
        one.status.error_message = message
    return response


def metadata(version: Version) -> Any:
    """GetModelMetadataResponse with the signatures of a version in use."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in version.servable.signatures.items():
        signatures.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    response.metadata["signature_def"].Pack(signatures)
    return response
