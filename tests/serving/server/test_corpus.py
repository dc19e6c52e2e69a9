"""A corpus of images and requests, as they are and mutated, against a real export."""

from __future__ import annotations

import base64
import io
import json
import struct

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
import toy_models
from conftest import make_trained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_unet.data.records import encode_example
from keras_unet.models import in_float32
from keras_unet.serving import write_saved_model

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 31), dtype=np.uint8)
FUZZ = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
ANSWERS = {200, 400, 413}
CODES = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"
}  # fmt: skip


def saved(form, mode="L", **options):
    file = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(file, form, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def frames():
    file = io.BytesIO()
    first = Image.fromarray(PICTURE)
    first.save(file, "PNG", save_all=True, append_images=[first.rotate(180)])
    return file.getvalue()


GOOD = {
    "png": saved("PNG"),
    "png of 1 bit": saved("PNG", "1"),
    "png of 16 bits": tf.io.encode_png(PICTURE[..., None].astype(np.uint16) * 200).numpy(),
    "png in colour": saved("PNG", "RGB"),
    "png with opacity": saved("PNG", "RGBA"),
    "png with a palette": saved("PNG", "P"),
    "png with frames": frames(),
    "png turned": saved("PNG", exif=turned()),
    "jpeg": saved("JPEG"),
    "jpeg in colour": saved("JPEG", "RGB"),
    "jpeg in cmyk": saved("JPEG", "CMYK"),
    "jpeg progressive": saved("JPEG", "RGB", progressive=True),
    "jpeg turned": saved("JPEG", exif=turned()),
    "jpeg with a profile": saved("JPEG", "RGB", icc_profile=bytes(70_000)),
}
BAD = {
    "gif": saved("GIF"),
    "bmp": saved("BMP"),
    "tiff": saved("TIFF"),
    "webp": saved("WEBP", "RGB"),
    "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "nothing": b"",
}


def message(signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request.SerializeToString()


MESSAGES = [
    message(images=PICTURE[None, ..., None].astype(np.float32)),
    message("segment_bytes", image_bytes=[GOOD["png"], GOOD["jpeg turned"]]),
    message("segment_bytes_probabilities", image_bytes=[GOOD["png with a palette"]]),
    message("segment_examples", examples=[encode_example("a", PICTURE[..., None])]),
    message("segment_examples", examples=[encode_example("a", PICTURE[..., None] / np.float32(2))]),
]
B64 = {"b64": base64.b64encode(GOOD["png"]).decode()}
DOCUMENTS = [
    {"instances": PICTURE[None, :4, :4, None].tolist()},
    {"inputs": {"images": PICTURE[None, :4, :4, None].tolist()}},
    {"signature_name": "segment_bytes", "instances": [B64, B64]},
    {"signature_name": "segment_bytes_probabilities", "inputs": {"image_bytes": [B64]}},
]


@st.composite
def mutated(draw, seeds):
    """One of the seeds with a few of its bytes changed, cut out, repeated or from another seed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        end = min(len(data), at + draw(st.sampled_from([1, 1, 2, 4, 8, 64, 10**6])))
        kind = draw(st.sampled_from("set number cut repeat splice insert".split()))  # noqa: SIM905
        if kind == "set":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":
            value = draw(st.sampled_from([0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1]))
            data[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", value)
        elif kind == "cut":
            del data[at:end]
        elif kind == "repeat":
            data[at:at] = data[at:end] * draw(st.integers(1, 3))
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            data[at:] = other[draw(st.integers(0, len(other))) :]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    trained = make_trained()
    trained = trained._replace(network=in_float32(trained.network))
    (root / "m").mkdir()
    write_saved_model(trained, root / "m" / "1")
    limits = {"pixels": 20_000, "rows": 8, "seconds": 120.0}
    with toy_models.serving(root, limits=limits) as server:
        yield server
        assert server.budget.held == 0


@pytest.fixture(scope="module")
def post(server):
    session = requests.Session()
    url = f"http://{server.rest_address}/v1/models/m:predict"
    return lambda document: session.post(
        url, document if isinstance(document, bytes) else json.dumps(document), timeout=150
    )


@pytest.fixture(scope="module")
def call(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def call(data):
            try:
                method(data, timeout=150)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        yield call


def segment(post, data):
    one = {"b64": base64.b64encode(data).decode()}
    return post({"signature_name": "segment_bytes", "instances": [one]})


@pytest.mark.parametrize("name", GOOD)
def test_images_that_are_segmented(post, name):
    response = segment(post, GOOD[name])
    assert response.status_code == 200, response.text
    (mask,) = response.json()["predictions"]
    size = Image.open(io.BytesIO(base64.b64decode(mask["b64"]))).size
    assert size == ((24, 31) if "turned" in name else (31, 24))


@pytest.mark.parametrize("name", BAD)
def test_images_that_are_refused(post, name):
    response = segment(post, BAD[name])
    assert response.status_code == 400 and list(response.json()) == ["error"], response.text


def test_the_requests_of_the_corpus_are_answered(post, call):
    for data in MESSAGES:
        assert call(data) == "OK"
    for document in DOCUMENTS:
        assert post(document).status_code == 200


@pytest.mark.parametrize("data", [b"\xff", b"\xff" * 9000], ids=["short", "longer than a header"])
def test_an_example_of_bytes_that_are_no_text_is_an_invalid_argument(server, data):
    request = predict_pb2.PredictRequest.FromString(message("segment_examples", examples=[data]))
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=150)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert "Could not parse example input" in caught.value.details()


@FUZZ
@given(mutated([*GOOD.values(), *BAD.values()]))
def test_mutated_images(post, data):
    response = segment(post, data)
    assert response.status_code in ANSWERS, response.text
    assert len(response.json().get("error", "")) < 2100


@FUZZ
@given(mutated(MESSAGES))
def test_mutated_messages(call, data):
    assert call(data) in CODES


@FUZZ
@given(mutated([json.dumps(one).encode() for one in DOCUMENTS]))
def test_mutated_documents(post, data):
    response = post(data)
    assert response.status_code in {*ANSWERS, 404}, response.text
    if response.status_code != 200:
        assert list(response.json()) == ["error"]
