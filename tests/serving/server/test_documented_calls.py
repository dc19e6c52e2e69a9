"""The curl calls of TensorFlow Serving's page "RESTful API", word for word, and their answers."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import pytest
import tensorflow as tf
import toy_models

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def curl(tmp_path_factory):
    """Runs the page's `curl …`: (status, {header: value}, document)."""
    root = tmp_path_factory.mktemp("saved_models")
    module = tf.Module()
    module.half = tf.Variable(0.5)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_plus_three(x):
        return {"y": module.half * x + 3.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def reversed_bytes(image_bytes):
        text = tf.strings.regex_replace(image_bytes, "^(.)(.*)$", r"\2\1")
        return {"mask_bytes": text, "length": tf.strings.length(image_bytes)}

    signatures = {"serving_default": half_plus_three, "images": reversed_bytes}
    tf.saved_model.save(module, str(root / "beside"), signatures)
    (root / "half_plus_three").mkdir()
    (root / "beside").rename(root / "half_plus_three" / "123")
    with toy_models.serving(root) as server:

        def run(*arguments):
            given = [one.replace("localhost:8501", server.rest_address) for one in arguments]
            command = ["curl", "--silent", "--show-error", "--include", "--max-time", "20", *given]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            head, _, body = done.stdout.partition("\n\n")
            first, *lines = head.splitlines()
            headers = dict(line.lower().split(": ", 1) for line in lines)
            return int(first.split()[1]), headers, json.loads(body)

        yield run


def test_status(curl):
    status, _, document = curl("http://localhost:8501/v1/models/half_plus_three")
    assert status == 200
    assert document == {
        "model_version_status": [
            {
                "version": "123",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_predict(curl):
    body = '{"instances": [1.0,2.0,5.0]}'
    url = "http://localhost:8501/v1/models/half_plus_three:predict"
    status, headers, document = curl("-d", body, "-X", "POST", url)
    assert status == 200 and headers["content-type"] == "application/json"
    assert document == {"predictions": [3.5, 4.0, 5.5]}
    url = "http://localhost:8501/v1/models/half_plus_three/versions/123:predict"
    assert curl("-d", '{"inputs": [1.0,2.0,5.0]}', url)[2] == {"outputs": [3.5, 4.0, 5.5]}
    named = '{"instances": [{"x": 1.0}, {"x": 2.0}]}'
    assert curl("-d", named, url)[2] == {"predictions": [3.5, 4.0]}
    assert curl("-d", '{"inputs": {"x": [4]}}', url)[2] == {"outputs": [5.0]}


def test_bytes_go_and_come_as_base64(curl):
    given = {"b64": base64.b64encode(b"abc").decode()}
    back = {"b64": base64.b64encode(b"bca").decode()}
    url = "http://localhost:8501/v1/models/half_plus_three:predict"
    rows = json.dumps({"signature_name": "images", "instances": [given]})
    assert curl("-d", rows, url)[2] == {"predictions": [{"mask_bytes": back, "length": 3}]}
    columns = json.dumps({"signature_name": "images", "inputs": [given]})
    assert curl("-d", columns, url)[2] == {"outputs": {"mask_bytes": [back], "length": [3]}}


def test_an_unknown_model(curl):
    body, url = '{"instances": [1.0,5.0]}', "http://localhost:8501/v1/models/half:predict"
    status, headers, document = curl("-i", "-d", body, "-X", "POST", url)
    assert status == 404 and headers["content-type"] == "application/json"
    assert document == {"error": "Servable not found for request: Latest(half)"}


def test_metadata(curl):
    status, _, document = curl("http://localhost:8501/v1/models/half_plus_three/metadata")
    assert status == 200
    assert document["model_spec"] == {
        "name": "half_plus_three",
        "signature_name": "",
        "version": "123",
    }
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }
