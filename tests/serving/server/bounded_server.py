"""Small requests of both protocols, good and bad, for servers of the toy model `m`."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import grpc
import pytest
import requests
import tensorflow as tf
import toy_models
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

LIMITS = {"pixels": 10_000, "rows": 8, "slow_seconds": 1.0, "request_bytes": 1 << 20}


def publish(folder):
    """Version 1 of the toy model in `folder`, a folder of models."""
    toy_models.write(folder / "m" / "1")
    return folder


def png_header(width, height):
    """A PNG that says it is of this size, and holds nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    shape = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    empty = zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + chunk(b"IDAT", empty) + chunk(b"IEND", b"")
    )


def post(server, document, path="/v1/models/m:predict", **options):
    url = f"http://{server.rest_address}{path}"
    data = document if isinstance(document, bytes) else json.dumps(document)
    return requests.post(url, data, timeout=20, **options)


def segment(server, *images):
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    return post(server, {"signature_name": "segment_bytes", "instances": encoded})


def serves(server):
    return post(server, {"instances": [[[[0.5]]]]}).status_code == 200


def predict(server, request, seconds=20, **options):
    with grpc.insecure_channel(server.grpc_address, **options) as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
            request, timeout=seconds
        )


def request_of(array):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(array))
    return request


def refusal(server, request, **options):
    with pytest.raises(grpc.RpcError) as caught:
        predict(server, request, **options)
    return caught.value.code().name
