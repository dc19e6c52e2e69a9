"""Numbered objects of a served model: those of `segment`, by the server and by the client."""

from __future__ import annotations

import base64
import io
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow as tf
import tifffile
import toy_models
from conftest import make_trained, of_instances
from PIL import Image
from scipy.ndimage import gaussian_filter
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import model_pb2
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import DataError, ServingError
from keras_unet.inference import predict, segment, to_instances
from keras_unet.models import Decoding, in_float32
from keras_unet.serving import (
    GOLDEN_TOLERANCE,
    Client,
    golden_differences,
    golden_requests,
    write_saved_model,
)
from keras_unet.serving import client as client_module
from keras_unet.serving.client import segment_files
from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.protocol.objects import (
    FULL,
    OBJECTS,
    decoding_of_answer,
    decoding_tensors,
    last_below,
    to_probabilities,
)
from keras_unet.serving.server import object_signature


def blobs(height, width, seed=0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 3)
    return np.clip(128 + 600 * noise, 0, 255).astype(np.uint8)


IMAGES = [blobs(60, 90), blobs(45, 33, seed=1)]
DECODING = {"min_size": 4, "neck": 0.8}
LARGE, TILED = blobs(60, 91), blobs(60, 130, seed=2)


@pytest.fixture(scope="module")
def trained():
    """Random weights, and a threshold that a third of the pixels exceed, none of them narrowly.

    So there are many objects, and no rounding changes one.
    """
    trained = make_trained("range")
    trained = trained._replace(network=in_float32(trained.network))
    last = trained.network.get_layer("logits")
    kernel, bias = last.get_weights()
    last.set_weights([20 * kernel, bias])  # probabilities that differ
    found = [predict(trained, image)[..., 1].ravel() for image in (*IMAGES, LARGE, TILED)]
    values = np.sort(np.concatenate(found))
    middle = values[len(values) // 3 : 2 * len(values) // 3]
    widest = int(np.diff(middle).argmax())
    threshold = float(middle[widest : widest + 2].mean())
    assert np.abs(values - threshold).min() > 1e-5
    return of_instances(trained, **DECODING, threshold=threshold)


@pytest.fixture(scope="module")
def root(tmp_path_factory, trained):
    """Beside it one that says nothing of objects, as of classes or of an older version."""
    root = tmp_path_factory.mktemp("saved_models")
    write_saved_model(trained, root / "nuclei" / "1")
    toy_models.write(root / "toy" / "1")
    return root


@pytest.fixture(scope="module")
def server(root):
    limits = {"object_pixels": 60 * 90, "request_bytes": 1 << 22, "rows": 8}
    with toy_models.serving(root, limits=limits) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(server, request):
    address = server.grpc_address if request.param == "grpc" else server.rest_address
    with Client(f"{request.param}://{address}") as client:
        yield client


class Plain:
    """The server as TensorFlow Serving would be: only what is in the graph."""

    def __init__(self, transport):
        self.transport, self.asked = transport, []

    def predict(self, model, signature, inputs, seconds):
        self.asked.append((signature, model[1]))
        if signature == OBJECTS:
            message = f'Serving signature key "{OBJECTS}" not found.'
            raise ServingError(message, "FAILED_PRECONDITION")
        return self.transport.predict(model, signature, inputs, seconds)

    def status(self, name, seconds):
        return self.transport.status(name, seconds)

    def close(self):
        self.transport.close()


def test_the_server_answers_the_objects_of_segment(client, trained):
    expected = [segment(trained, image) for image in IMAGES]
    assert min(labels.max() for labels in expected) > 5
    found = client.objects("nuclei", IMAGES)
    for labels, wanted in zip(found, expected, strict=True):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, wanted)
    assert client.objects("nuclei", []) == []


def test_the_client_finds_the_same_where_the_server_does_not(client, trained):
    plain = client._transport = Plain(client._transport)
    expected = [segment(trained, image) for image in IMAGES]
    for _ in range(2):
        for labels, wanted in zip(client.objects("nuclei", IMAGES), expected, strict=True):
            assert labels.dtype == np.int32
            np.testing.assert_array_equal(labels, wanted)
    # one version answers all, and images are not sent again to whom has no such signature
    told = [("decoding", 1), ("segment_bytes_probabilities", 1)]
    assert plain.asked == [(OBJECTS, None), *told, *told]


def test_16_bits_keep_a_pixel_on_its_side_of_the_threshold(tmp_path):
    """So the client's objects are those of the probabilities, ever so near to the threshold."""
    trained = make_trained("range")
    trained = trained._replace(network=in_float32(trained.network))
    image = blobs(60, 90)
    expected = predict(trained, image)[..., 1]
    fraction = expected * FULL % 1
    pixel = np.argmax((fraction > 0.55) & (fraction < 0.8))  # is rounded up
    near = float(expected.ravel()[pixel] + 1e-6)  # and would exceed this threshold
    write_saved_model(of_instances(trained, threshold=near), tmp_path / "1")
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = tf.constant([file.getvalue()])
    answer = signatures["segment_bytes_probabilities"](image_bytes=data)["probability_bytes"]
    shares = np.asarray(Image.open(io.BytesIO(answer.numpy()[0, -1])))
    graph = signatures["serving_default"](images=tf.constant(image[None, ..., None], tf.float32))
    probabilities = graph["probabilities"].numpy()[0, ..., 1]
    assert np.abs(shares / FULL - probabilities).max() <= 1 / FULL
    above = to_probabilities(shares) > near
    np.testing.assert_array_equal(above, probabilities > near)
    rounded = to_probabilities(np.round(probabilities * FULL)) > near
    assert rounded.ravel()[pixel] and not above.ravel()[pixel]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1 / 3, 0.7 - 1e-9, 1 - 1e-7, 1.0])
def test_the_last_share_below_a_threshold(threshold):
    most = last_below(threshold)
    assert to_probabilities(np.array(most)) <= np.float32(threshold)
    assert most == FULL or to_probabilities(np.array(most + 1)) > np.float32(threshold)


def test_how_objects_are_found_is_said(client, trained):
    assert client.decoding("nuclei") == trained.card.decoding
    probabilities = client.predict("nuclei", TILED, tile=112)
    labels = to_instances(probabilities[..., -1], **client.decoding("nuclei").arguments)
    np.testing.assert_array_equal(labels, segment(trained, TILED))
    assert client.decoding("toy") is None
    with pytest.raises(ServingError, match="NOT_FOUND"):
        client.decoding("nope")


def test_a_model_of_classes_is_refused_by_name(client):
    with pytest.raises(ServingError, match="'toy' does not say how objects are found.*segment"):
        client.objects("toy", IMAGES)
    with pytest.raises(ServingError, match="NOT_FOUND"):
        client.objects("nope", IMAGES)
    with pytest.raises(ServingError, match="expected a PNG or JPEG file"):
        client.objects("nuclei", [b"no image"])
    with pytest.raises(DataError, match="expected a list"):
        client.objects("nuclei", b"one")


def test_what_a_newer_version_says_is_not_guessed(client):
    class Newer(Plain):
        def predict(self, model, signature, inputs, seconds):
            if signature != "decoding":
                return super().predict(model, signature, inputs, seconds)
            return {"threshold": np.float64([0.5]), "split": np.array([b"star"], object)}

    client._transport = Newer(client._transport)
    with pytest.raises(ServingError, match="in a way that this keras_unet does not know.*star"):
        client.objects("nuclei", IMAGES)


def rest(server, *images, signature=OBJECTS, row=False):
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append({"b64": base64.b64encode(file.getvalue()).decode()})
    body = {"instances": files} if row else {"inputs": {"image_bytes": files}}
    url = f"http://{server.rest_address}/v1/models/nuclei:predict"
    return requests.post(url, json={"signature_name": signature, **body}, timeout=60)


def test_rest_answers_it_in_both_formats_and_lists_it(server, trained):
    wanted = segment(trained, IMAGES[1])
    answers = rest(server, IMAGES[1]).json()["outputs"]
    rows = rest(server, IMAGES[1], row=True).json()["predictions"]
    assert answers == rows
    labels = Image.open(io.BytesIO(base64.b64decode(rows[0]["b64"])))
    assert labels.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(labels), wanted)
    url = f"http://{server.rest_address}/v1/models"
    listed = requests.get(f"{url}/nuclei/metadata", timeout=20).json()["metadata"]
    form = listed["signature_def"]["signature_def"][OBJECTS]
    assert form["outputs"]["label_bytes"]["dtype"] == "DT_STRING"
    assert form["inputs"].keys() == {"image_bytes"}
    toy = requests.get(f"{url}/toy/metadata", timeout=20).json()["metadata"]
    assert OBJECTS not in toy["signature_def"]["signature_def"]


def test_large_images_are_refused_before_anything_is_computed(server, client, trained):
    answer = rest(server, IMAGES[1], LARGE)
    assert answer.status_code == 413
    assert "60 x 91 pixels; at most 5400 are accepted where objects" in answer.json()["error"]
    assert rest(server, LARGE, signature="segment_bytes").status_code == 200
    (labels,) = client.objects("nuclei", [LARGE])  # which the client finds itself
    np.testing.assert_array_equal(labels, segment(trained, LARGE))


def test_more_objects_than_a_png_numbers_are_left_to_the_client(
    server, client, monkeypatch, tmp_path
):
    many = (np.arange(300 * 300).reshape(300, 300) % (FULL + 10)).astype(np.int32)
    monkeypatch.setattr(object_signature, "find", lambda *_: many)
    answer = rest(server, IMAGES[0])
    assert answer.status_code == 400
    assert f"{FULL + 9} objects; a PNG of 16 bits can number {FULL}" in answer.text
    monkeypatch.setattr(client_module, "find", lambda *_: many)
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    (file,) = segment_files(client, "nuclei", tmp_path / "a.png", tmp_path / "out")
    assert file.name == "a_labels.tif"
    labels = tifffile.imread(file)
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, many)


def test_a_deadline_holds_between_images(monkeypatch):
    """Each takes as long as it takes; no other is begun when the time is up."""
    begun, images = [], np.array([b"image"] * 8, object)

    def run(signature, inputs, outputs, seconds):
        assert signature == "segment_bytes_probabilities" and len(inputs[0]) == 1
        assert 0 < seconds <= 0.3
        return [np.array([[b"share"]], object)]

    def slow(shares, decoding):
        begun.append(shares)
        time.sleep(0.2)
        return np.zeros((2, 2), np.int32)

    monkeypatch.setattr(object_signature, "find", slow)
    signature = object_signature.ObjectSignature(Decoding(), run, meta_graph_pb2.SignatureDef())
    with pytest.raises(Refused, match="of 8 images found when time was up") as caught:
        signature(images, 0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED and len(begun) < 3


def test_others_are_answered_while_objects_are_found(server, monkeypatch):
    going, done = threading.Event(), threading.Event()

    def waiting(shares, decoding):
        going.set()
        assert done.wait(20)
        return np.zeros((2, 2), np.int32)

    monkeypatch.setattr(object_signature, "find", waiting)
    with Client(f"grpc://{server.grpc_address}") as client:
        slow = threading.Thread(target=client.objects, args=("nuclei", IMAGES[1:]))
        slow.start()
        try:
            assert going.wait(20)
            assert client.segment("nuclei", IMAGES[1:])[0].shape == (45, 33)
            metrics = requests.get(f"http://{server.rest_address}/metrics", timeout=20).text
            assert 'model="nuclei"' in metrics
        finally:
            done.set()
            slow.join()


def test_files_of_a_served_instance_model_are_labels(server, trained, tmp_path):
    (tmp_path / "in").mkdir()
    for name, image in zip("ab", IMAGES, strict=True):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    typed = ["predict", "nuclei", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    typed += ["--server", f"grpc://{server.grpc_address}"]
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    assert f"Objects: {trained.card.decoding}" in " ".join(done.output.split())
    written = sorted(file.name for file in (tmp_path / "out").glob("[!.]*"))
    assert written == ["a_labels.png", "b_labels.png"]
    for name, image in zip(written, IMAGES, strict=True):
        labels = np.asarray(Image.open(tmp_path / "out" / name))
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, segment(trained, image))
    assert CliRunner().invoke(app, typed).exit_code == 0  # they are its own
    Image.fromarray(IMAGES[0]).save(tmp_path / "out" / written[0])
    done = CliRunner().invoke(app, typed)
    assert isinstance(done.exception, DataError)


def test_a_signature_of_that_name_that_means_something_else(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "request")])
    def decoding(request):
        return {"codec": tf.fill(tf.shape(request), "utf-8")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "request")])
    def unknown(request):
        return {"split": tf.fill(tf.shape(request), "star")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def shares(image_bytes):
        return {"probability_bytes": image_bytes[:, None]}

    for name, one in (("other", decoding), ("newer", unknown)):
        signatures = {"decoding": one, "segment_bytes_probabilities": shares}
        tf.saved_model.save(module, str(tmp_path / name / "1"), signatures)
    with toy_models.serving(tmp_path) as server:
        assert server.manager.names() == ["newer", "other"]
        for name in ("other", "newer"):
            with server.predictor.using(model_pb2.ModelSpec(name=name)) as version:
                assert OBJECTS not in version.servable.signatures


def test_golden_requests_ask_a_server_how_objects_are_found(client, trained):
    """As the pipeline's InfraValidator does."""
    asked = golden_requests(trained)
    answers = [client.run("nuclei", {one.name: one.value}, one.signature) for one in asked]
    found = golden_differences(trained, asked, answers)
    assert found["decoding"] == 0.0 and max(found.values()) <= GOLDEN_TOLERANCE
    other = of_instances(trained, **{**DECODING, "min_size": 5})
    assert golden_differences(other, asked, answers)["decoding"] == 1.0


def test_settings_survive_the_wire():
    given = Decoding(threshold=1 / 3, neck=0.7, split="distance", fill_holes=False, seed_distance=9)
    sent = {name: np.array([one, one]) for name, one in decoding_tensors(given).items()}
    sent["split"] = np.array([b"distance"] * 2, object)
    assert decoding_of_answer(sent) == given
