"""The running server, asked by the generated stubs and by plain HTTP: as TensorFlow Serving."""

from __future__ import annotations

import base64
import json
import threading
import time

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
import toy_models
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from keras_unet.errors import ConfigError
from keras_unet.serving.server import EmbeddedServer, ServerSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_models.write(tmp_path_factory.mktemp("made") / "1", scale=0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.publish_copy(model, root / "cells" / "1")
    toy_models.publish_copy(model, root / "cells" / "2")
    toy_models.publish_copy(model, root / "other" / "7")
    with toy_models.serving(root) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def ask(name="cells", signature="", outputs=(), version=None, label="", **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(call, *arguments):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=20)
    return caught.value.code().name, caught.value.details()


IMAGE = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4, 1)


def test_predict_over_grpc(stub):
    response = stub.Predict(ask(images=IMAGE), timeout=20)
    assert response.model_spec.name == "cells" and response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"
    answer = tf.make_ndarray(response.outputs["probabilities"])
    np.testing.assert_allclose(answer[..., 1:], IMAGE / 2)
    assert len(response.outputs["probabilities"].float_val) == 24


def test_signatures_filters_and_bytes(stub, server):
    given = ask("other", "two_inputs", ["sum"], a=np.int32([1, 2]), b=np.float32([0.5, 1]))
    response = stub.Predict(given, timeout=20)
    assert dict.fromkeys(response.outputs) == {"sum": None}
    assert list(response.outputs["sum"].float_val) == [1.5, 3.0]
    for order in (["sum", "name"], ["name", "sum"]):
        given = ask("other", "two_inputs", order, a=np.int32([1]), b=np.float32([0.5]))
        assert set(stub.Predict(given, timeout=20).outputs) == {"sum", "name"}
    version = server.manager.acquire("other")
    made = [outputs for name, outputs in version.servable._callables if name == "two_inputs"]
    assert sorted(made) == [("name", "sum"), ("sum",)]  # one of each set, whatever its order
    version.leave()
    images = [toy_models.png(3, 5, 10), toy_models.png(2, 2, 255)]
    response = stub.Predict(ask("cells", "segment_bytes", image_bytes=images), timeout=20)
    masks = [tf.io.decode_png(m).numpy() for m in response.outputs["mask_bytes"].string_val]
    assert [m.shape for m in masks] == [(3, 5, 1), (2, 2, 1)]
    assert masks[0].max() == 245 and masks[1].max() == 0


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (ask("nope", images=IMAGE), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (ask("cells", version=9, images=IMAGE), "NOT_FOUND", "Specific(cells, 9)"),
        (ask("cells", label="x", images=IMAGE), "INVALID_ARGUMENT", "version label: x"),
        (ask("", images=IMAGE), "INVALID_ARGUMENT", "no name specified"),
        (ask("cells", "x", images=IMAGE), "FAILED_PRECONDITION", 'signature key "x" not found'),
        (ask("cells"), "INVALID_ARGUMENT", "Missing but required: {images}"),
        (ask("cells", images=IMAGE, y=1.0), "INVALID_ARGUMENT", "Sent extra: {y}"),
        (ask("cells", outputs=["x"], images=IMAGE), "INVALID_ARGUMENT", "alias not found"),
        (ask("cells", images=IMAGE[0]), "INVALID_ARGUMENT", "found shape [3, 4, 1]"),
        (ask("cells", images=np.zeros((1, 2, 2, 3), "f")), "INVALID_ARGUMENT", "[1, 2, 2, 3]"),
        (ask("cells", images=IMAGE.astype(np.float64)), "INVALID_ARGUMENT", "found double"),
        (ask("cells", images=[[[["x"]]]]), "INVALID_ARGUMENT", "found string"),
        (ask("cells", images=IMAGE * np.nan), "INVALID_ARGUMENT", "NaN or infinite"),
    ],
)
def test_refusals_over_grpc(stub, request_, code, message):
    found, details = refused(stub.Predict, request_)
    assert found == code and message in details


def test_what_is_no_message_is_refused(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        for method, code in [
            ("PredictionService/Predict", "INVALID_ARGUMENT"),
            ("ModelService/GetModelStatus", "INVALID_ARGUMENT"),
            ("PredictionService/Classify", "UNIMPLEMENTED"),
        ]:
            call = channel.unary_unary(f"/tensorflow.serving.{method}")
            assert refused(call, b"\xff\xff\xff")[0] == code


def test_status_and_metadata_over_grpc(stub, models):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "cells"
    states = models.GetModelStatus(request, timeout=20).model_version_status
    assert [(s.version, s.state, s.status.error_code) for s in states][-1] == (2, 30, 0)
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "other"
    response = stub.GetModelMetadata(asked, timeout=20)
    assert response.model_spec.version.value == 7
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def["serving_default"]
    assert found.inputs["images"].dtype == 1
    assert [d.size for d in found.inputs["images"].tensor_shape.dim] == [-1, -1, -1, 1]
    assert refused(stub.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest())[1] == (
        "Missing ModelSpec"
    )
    asked.metadata_field[0] = "x"
    assert "Metadata field x is not supported" in refused(stub.GetModelMetadata, asked)[1]


def get(server, path, **options):
    return requests.get(f"http://{server.rest_address}{path}", timeout=20, **options)


def post(server, path, document, **options):
    data = document if isinstance(document, bytes) else json.dumps(document)
    return requests.post(f"http://{server.rest_address}{path}", data, timeout=20, **options)


def test_status_over_rest_is_as_documented(server):
    response = get(server, "/v1/models/other")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_version_status": [
            {
                "version": "7",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert get(server, "/v1/models/other/versions/7").json() == response.json()


def test_metadata_over_rest(server):
    document = get(server, "/v1/models/other/metadata").json()
    assert document["model_spec"] == {"name": "other", "signature_name": "", "version": "7"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert signatures["segment_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    dims = signatures["serving_default"]["inputs"]["images"]["tensor_shape"]["dim"]
    assert dims[0] == {"size": "-1", "name": ""}


def test_predict_over_rest(server):
    rows = post(server, "/v1/models/cells:predict", {"instances": IMAGE.tolist()})
    np.testing.assert_allclose(np.array(rows.json()["predictions"])[..., 1:], IMAGE / 2, atol=1e-6)
    columns = post(server, "/v1/models/cells/versions/2:predict", {"inputs": IMAGE.tolist()})
    assert columns.json()["outputs"] == rows.json()["predictions"]
    data = base64.b64encode(toy_models.png(2, 3, 5)).decode()
    asked = {"signature_name": "segment_bytes", "instances": [{"b64": data}]}
    (mask,) = post(server, "/v1/models/cells:predict", asked).json()["predictions"]
    assert tf.io.decode_png(base64.b64decode(mask["b64"])).numpy().max() == 250


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/v1/models/nope", None, 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/cells/versions/9", None, 404, "Could not find version 9"),
        ("GET", "/v1/models/cells/labels/x", None, 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/a/b", None, 400, "Malformed request: GET /v1/models/a/b"),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", None, 404, "../../etc/passwd"),
        ("GET", "/v1/models/cells/versions/99999999999999999999", None, 400, "Failed to convert"),
        ("POST", "/v1/models/half:predict", b'{"instances": [1]}', 404, "Latest(half)"),
        ("POST", "/v1/models/cells/labels/..%2f..:predict", b'{"inputs": 1}', 400, "label: ../.."),
        ("POST", "/v1/models/cells:predict", b"", 400, "JSON Parse error"),
        ("POST", "/v1/models/cells:predict", b"[]", 400, "Is not object"),
        ("POST", "/v1/models/cells:predict", b'{"instances": [1]}', 400, "found shape [1]"),
        ("POST", "/v1/models/cells:predict", b'{"signature_name": "x", "inputs": 1}', 400, '"x"'),
        ("POST", "/v1/models/cells:classify", b"{}", 501, "classify"),
        ("POST", "/v1/models/cells:delete", b"{}", 400, "Malformed request"),
    ],
)
def test_refusals_over_rest(server, method, path, body, status, message):
    url = f"http://{server.rest_address}{path}"
    response = requests.request(method, url, data=body, timeout=20)
    assert response.status_code == status
    assert list(response.json()) == ["error"] and message in response.json()["error"]


def test_health_metrics_and_page(server):
    assert get(server, "/healthz").text == "ok\n"
    assert get(server, "/models").json() == {"models": ["cells", "other"]}
    post(server, "/v1/models/other:predict", {"instances": IMAGE.tolist()})
    get(server, "/v1/models/made-up-by-a-client")
    text = get(server, "/metrics").text
    line = 'keras_unet_requests_total{api="rest",method="predict",model="other",status="200"}'
    assert float(text.split(line)[1].split()[0]) >= 1
    assert "made-up-by-a-client" not in text
    assert 'keras_unet_version_available{model="other",version="7"} 1.0' in text
    assert "keras_unet_batch_rows_bucket" in text
    assert get(server, "/monitoring/prometheus/metrics").status_code == 200
    assert get(server, "/nothing").status_code == 404


def test_versions_change_under_load_without_a_failed_request(tmp_path, model):
    toy_models.publish_copy(model, tmp_path / "m" / "1")
    failures, seen, stop = [], set(), threading.Event()

    def client(address):
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.is_set():
                try:
                    answer = stub.Predict(ask("m", images=IMAGE), timeout=20)
                    seen.add(answer.model_spec.version.value)
                except grpc.RpcError as error:
                    failures.append(error)

    def rest_client(address):
        url = f"http://{address}/v1/models/m:predict"
        with requests.Session() as session:
            while not stop.is_set():
                response = session.post(url, json={"instances": IMAGE.tolist()}, timeout=20)
                if response.status_code != 200:
                    failures.append(response.text)

    with toy_models.serving(tmp_path) as server:
        clients = [(client, server.grpc_address)] * 4 + [(rest_client, server.rest_address)] * 2
        threads = [threading.Thread(target=one, args=[address]) for one, address in clients]
        for thread in threads:
            thread.start()
        (tmp_path / "m" / "2").mkdir()  # nothing in it: reported, and the old one stays
        toy_models.publish_copy(model, tmp_path / "m" / "3")
        until = time.monotonic() + 20
        while 3 not in seen and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        status = requests.get(f"http://{server.rest_address}/v1/models/m", timeout=20).json()
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures and seen == {1, 3}
    states = {s["version"]: s for s in status["model_version_status"]}
    assert states["3"]["state"] == "AVAILABLE" and states["1"]["state"] == "END"
    if "2" in states:  # polled before 3 was there
        assert states["2"]["state"] == "END"
        assert states["2"]["status"]["error_code"] != "OK"


def test_reloading_the_config(tmp_path, model):
    for path in ("root/a/1", "root/b/1", "elsewhere/1"):
        toy_models.publish_copy(model, tmp_path / path)
    (tmp_path / "root/models.config").write_text(
        'model_config_list { config { name: "a" base_path: "a" } }'
    )
    file = tmp_path / "root/models.config"
    with (
        toy_models.serving(tmp_path / "root", model_config_file=file) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        assert server.manager.names() == ["a"]
        request = model_management_pb2.ReloadConfigRequest()
        one = request.config.model_config_list.config.add(name="b", base_path="b")
        one.version_labels["stable"] = 1
        response = stub.HandleReloadConfigRequest(request, timeout=20)
        assert response.status.error_code == 0 and server.manager.names() == ["b"]
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        assert predict(ask("b", label="stable", images=IMAGE), timeout=20).model_spec.name == "b"
        for path in ("../elsewhere", str(tmp_path / "elsewhere"), "/"):
            one.base_path = path
            assert refused(stub.HandleReloadConfigRequest, request)[0] == "PERMISSION_DENIED"
        one.base_path = "nothing"
        assert refused(stub.HandleReloadConfigRequest, request)[0] == "NOT_FOUND"
        assert server.manager.names() == ["b"]


def test_reloads_that_take_long_do_not_hold_up_predictions(tmp_path, model):
    for path in ("a/1", "b/1"):
        toy_models.publish_copy(model, tmp_path / path)
    (tmp_path / "models.config").write_text(
        'model_config_list { config { name: "a" base_path: "a" } }'
    )
    config = tmp_path / "models.config"
    with (
        toy_models.serving(tmp_path, model_config_file=config) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        go, load = threading.Event(), server.manager._load
        server.manager._load = lambda *a: (go.wait(60), load(*a))[1]
        request = model_management_pb2.ReloadConfigRequest()
        for name in ("a", "b"):
            request.config.model_config_list.config.add(name=name, base_path=name)
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        reloads = [reload.future(request, timeout=60) for _ in range(8)]
        try:
            until = time.monotonic() + 20
            while "b" not in server.manager._versions:  # it is being loaded
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(0.2)  # the others have arrived
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            assert predict(ask("a", images=IMAGE), timeout=10).model_spec.name == "a"
        finally:
            go.set()
        assert [one.result().status.error_code for one in reloads] == [0] * 8
        assert server.manager.names() == ["a", "b"]


def test_warm_up_requests_are_run_and_must_work(tmp_path, model):
    def warm(folder, request):
        file = folder / "assets.extra" / "tf_serving_warmup_requests"
        file.parent.mkdir()
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(request)
        with tf.io.TFRecordWriter(str(file)) as writer:
            writer.write(log.SerializeToString())

    warm(toy_models.publish_copy(model, tmp_path / "good" / "1"), ask("good", images=IMAGE))
    warm(
        toy_models.publish_copy(model, tmp_path / "bad" / "1"),
        ask("bad", images=np.full_like(IMAGE, np.inf)),
    )
    torn = toy_models.publish_copy(model, tmp_path / "torn" / "1")
    (torn / "assets.extra").mkdir()
    (torn / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"torn" * 10)
    with toy_models.serving(tmp_path) as server:
        assert server.manager.names() == ["good"]
        assert "warm-up request 1: " in server.manager.status("bad")[0][3]
        assert "warm-up request 1: " in server.manager.status("torn")[0][3]


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        EmbeddedServer(ServerSettings(folder=tmp_path / "nothing"))
    for wrong, message in [
        ({"grpc_port": 8500, "rest_port": 8500}, "cannot share port 8500"),
        ({"grpc_port": None, "rest_port": None}, "nothing to serve"),
        ({"tls_key": tmp_path / "key"}, "both a certificate and its key"),
        ({"ports": 1}, "Extra inputs are not permitted"),
        ({"token": "ein schöner Schlüssel"}, "one line of printable ASCII"),
        ({"token": "two lines\nof a file"}, "one line of printable ASCII"),
    ]:
        with pytest.raises(ValueError, match=message):
            ServerSettings(folder=tmp_path, **wrong)


def test_a_port_that_is_taken_is_said(tmp_path):
    with toy_models.serving(tmp_path) as server:
        for name, address in [
            ("grpc_port", server.grpc_address),
            ("rest_port", server.rest_address),
        ]:
            port = int(address.rsplit(":", 1)[1])
            with (
                pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
                toy_models.serving(tmp_path, **{name: port}),
            ):
                pass
