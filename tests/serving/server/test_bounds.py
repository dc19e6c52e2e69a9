"""Too much, broken, slow or hostile: refused quickly, and everybody else is served."""

from __future__ import annotations

import base64
import gc
import json
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
import toy_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_unet.serving.server import json_tensors

TOKEN = "a token of this test"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.write(root / "m" / "1")
    return root


@pytest.fixture(scope="module")
def server(root):
    limits = {"pixels": 10_000, "rows": 8, "slow_seconds": 1.0, "request_bytes": 1 << 20}
    with toy_models.serving(root, limits=limits) as server:
        yield server


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


def test_bombs_are_refused_by_their_header(server):
    for size in [(101, 100), (1 << 20, 1 << 20), (2**31 - 1, 2**31 - 1)]:
        response = segment(server, png_header(*size))
        assert response.status_code == 413, response.text
    assert segment(server, toy_models.png(100, 100)).status_code == 200
    halves = [toy_models.png(100, 51)] * 2  # each is small enough, both are not
    assert segment(server, *halves).status_code == 413
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "segment_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([png_header(99_999, 99_999)]))
    assert refusal(server, request) == "RESOURCE_EXHAUSTED"
    assert refusal(server, request_of(np.zeros((1, 101, 100, 1), "f"))) == "RESOURCE_EXHAUSTED"


def test_broken_images_are_refused(server):
    whole = toy_models.png(20, 20)
    for broken in [b"", b"no image", whole[:10], whole[:40], whole[:-20], png_header(5, 5)]:
        response = segment(server, broken)
        assert response.status_code == 400, (broken, response.text)
        assert len(response.json()["error"]) < 2100
    assert serves(server)


def test_large_requests_are_refused_before_they_are_read(server):
    with socket.create_connection(server.rest_address.split(":"), timeout=5) as one:
        one.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
        )
        assert b"413" in one.recv(100)  # nothing of the body was sent

    def chunks():
        for _ in range(40):
            yield b" " * 65536

    response = requests.post(
        f"http://{server.rest_address}/v1/models/m:predict", chunks(), timeout=20
    )
    assert response.status_code == 413
    assert refusal(server, request_of(np.zeros((1, 600, 600, 1), "f"))) == "RESOURCE_EXHAUSTED"
    assert serves(server)


def test_too_many_images_are_refused(server):
    assert post(server, {"instances": [[[[0.5]]]] * 8}).status_code == 200
    assert post(server, {"instances": [[[[0.5]]]] * 9}).status_code == 413


def test_shapes_that_only_a_message_has_take_no_memory(server):
    request = request_of(np.zeros((1, 1, 1, 1), "f"))
    for dim in request.inputs["images"].tensor_shape.dim:
        dim.size = 1 << 20
    assert refusal(server, request) == "RESOURCE_EXHAUSTED"
    request.inputs["images"].tensor_content = b""
    request.inputs["images"].float_val.append(1.0)
    assert refusal(server, request) == "RESOURCE_EXHAUSTED"


def test_held_bytes_are_bounded_and_given_back(root):
    limits = {"request_bytes": 1 << 20, "held_bytes": 100_000, "slow_seconds": 5.0}
    with toy_models.serving(root, limits=limits) as server:
        big = {"instances": np.zeros((1, 150, 150, 1)).tolist()}
        for _ in range(3):
            response = post(server, big)
            assert response.status_code == 429
            assert "try later" in response.json()["error"]
            assert refusal(server, request_of(np.zeros((1, 160, 160, 1), "f"))) == (
                "RESOURCE_EXHAUSTED"
            )
        assert serves(server) and server.budget.held == 0


def test_a_full_queue_refuses_while_it_works(root):
    batching = {"max_batch_size": 1, "max_enqueued_batches": 2, "num_batch_threads": 1}
    with toy_models.serving(root, batching=batching) as server:
        slow = threading.Event()
        version = server.manager.acquire("m")
        run = version.servable.run
        version.servable.run = lambda *a: (slow.wait(20), run(*a))[1]
        codes = []

        def client():
            codes.append(post(server, {"instances": [[[[0.5]]]]}).status_code)

        threads = [threading.Thread(target=client) for _ in range(12)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 15
        while len(codes) < 9 and time.monotonic() < until:
            time.sleep(0.01)
        refused = list(codes)
        slow.set()
        for thread in threads:
            thread.join()
        version.leave()
    assert refused == [429] * 9  # at once, while one was computed and two waited
    assert sorted(codes) == [200] * 3 + [429] * 9


def test_deadlines_hold(root):
    with toy_models.serving(root, limits={"seconds": 1.0}) as server:
        version = server.manager.acquire("m")
        stuck = threading.Event()
        run = version.servable.run
        version.servable.run = lambda *a: (stuck.wait(20), run(*a))[1]
        response = post(server, {"instances": [[[[0.5]]]]})
        assert response.status_code == 504
        assert refusal(server, request_of(np.zeros((1, 1, 1, 1), "f"))) == "DEADLINE_EXCEEDED"
        stuck.set()
        version.servable.run = run
        version.leave()
        assert serves(server)


def test_few_json_documents_are_open_at_a_time(root, monkeypatch):
    """Their lists take many times what the text takes, which is what is counted."""
    parse, inputs_of, opened, most = json_tensors.parse, json_tensors.inputs_of, [], []

    def counting(body):
        opened.append(body)
        most.append(len(opened))
        return parse(body)

    def slow(*arguments):
        time.sleep(0.05)
        opened.pop()
        return inputs_of(*arguments)

    with toy_models.serving(root) as server:
        for _ in range(5):  # whatever ends a request, its place is given back
            assert post(server, b"{").status_code == 400
            assert post(server, {"instances": ["a"]}).status_code == 400
            assert post(server, {"instances": [1]}, "/v1/models/no:predict").status_code == 404
        monkeypatch.setattr(json_tensors, "parse", counting)
        monkeypatch.setattr(json_tensors, "inputs_of", slow)
        good = []
        threads = [threading.Thread(target=lambda: good.append(serves(server))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert good == [True] * 12 and max(most) <= 2


@pytest.mark.parametrize(
    ("protocol", "start"),
    [("rest_address", b"GET /v1/models/m HT"), ("grpc_address", b"PRI * HTTP/2.0\r\n\r")],
)
def test_a_thousand_connections_do_not_stop_the_server(server, protocol, start):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    host, port = getattr(server, protocol).split(":")
    idle = []
    try:
        for _ in range(1000):
            idle.append(socket.create_connection((host, port), timeout=5))
        for one in idle[::2]:
            one.sendall(start)  # and nothing more
        assert serves(server)
        assert predict(server, request_of(np.zeros((1, 1, 1, 1), "f")))
    finally:
        for one in idle:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bad_requests_of_many_do_not_disturb_a_good_client(server):
    stop, refused = threading.Event(), set()
    big = json.dumps({"instances": np.zeros((9, 40, 40, 1)).tolist()}).encode()
    bomb = base64.b64encode(png_header(60_000, 60_000)).decode()
    bad = [
        b'{"instances": ' + b"[" * 100_000,
        json.dumps({"signature_name": "segment_bytes", "instances": [{"b64": bomb}]}).encode(),
        b" " * (2 << 20),
        big,
    ]

    def client(document):
        while not stop.is_set():
            refused.add(post(server, document).status_code)

    threads = [threading.Thread(target=client, args=[one]) for one in bad]
    for thread in threads:
        thread.start()
    good = [serves(server) for _ in range(6)]
    good += [bool(predict(server, request_of(np.zeros((1, 4, 4, 1), "f")))) for _ in range(6)]
    stop.set()
    for thread in threads:
        thread.join()
    assert all(good)
    assert {400, 413} <= refused <= {400, 408, 413}  # 408: a busy machine was slow to send


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1e9\r\n\r\n",
        b"GET /v1/models/%ff%fe%00:x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models/" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server, data):
    with socket.create_connection(server.rest_address.split(":"), timeout=10) as one:
        try:
            one.sendall(data)
            assert b" 4" in one.recv(1000)
        except ConnectionError:
            pass  # closed on us
    assert serves(server)


def test_compressed_bodies_are_refused(server):
    response = post(server, zlib.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400 and "compressed" in response.json()["error"]


def test_compressed_messages_are_not_unpacked_beyond_the_limit(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:  # 20 KB on the wire
            call(bytes(20_000_000), timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"


def test_a_token_is_asked_for(root):
    with toy_models.serving(root, token=TOKEN) as server:
        url = f"http://{server.rest_address}"
        for path in ("/v1/models/m", "/models", "/metrics", "/v1/models/m/metadata"):
            for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
                response = requests.get(url + path, headers=wrong, timeout=20)
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
            right = {"Authorization": f"Bearer {TOKEN}"}
            assert requests.get(url + path, headers=right, timeout=20).status_code == 200
        assert post(server, {"instances": [[[[0.5]]]]}).status_code == 401
        for path in ("/", "/healthz"):  # nothing secret, and probes have no token
            assert requests.get(url + path, timeout=20).status_code == 200
        request = request_of(np.zeros((1, 1, 1, 1), "f"))
        assert refusal(server, request) == "UNAUTHENTICATED"
        with grpc.insecure_channel(server.grpc_address) as channel:
            method = "/tensorflow.serving.PredictionService/Predict"
            sending, stop = channel.stream_unary(method), threading.Event()
            with pytest.raises(grpc.RpcError) as caught:  # no message is waited for
                sending(iter(stop.wait, True), timeout=20)
            stop.set()
        assert caught.value.code().name == "UNAUTHENTICATED"
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            metadata = [("authorization", f"Bearer {TOKEN}")]
            assert stub.Predict(request, timeout=20, metadata=metadata)


def test_tls(root, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for place, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(tmp_path / "cert.pem"), append=place > 0)
    files = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with toy_models.serving(root, **files) as server:
        trusted = {"verify": str(tmp_path / "ca.pem"), "timeout": 20}
        assert requests.get(f"https://{server.rest_address}/v1/models/m", **trusted).ok
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"https://{server.rest_address}/v1/models/m", timeout=20)
        credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        with grpc.secure_channel(server.grpc_address, credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(request_of(np.zeros((1, 1, 1, 1), "f")), timeout=20)
        assert refusal(server, request_of(np.zeros((1, 1, 1, 1), "f")), seconds=3) in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
        )


def test_only_this_machine_can_connect_unless_told_otherwise(server):
    assert server.settings.loopback
    assert server.rest_address.startswith("127.0.0.1:")
    assert server.grpc_address.startswith("127.0.0.1:")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.text(max_size=30),
    st.sampled_from(["GET", "POST"]),
    st.binary(max_size=60)
    | st.sampled_from([b'{"instances": [[[["a"]]]]}', b'{"inputs": {"images": [[[[1]]]]}}']),
)
def test_any_path_and_body_get_an_answer(server, path, method, body):
    with requests.Session() as session:
        url = requests.Request(method, f"http://{server.rest_address}/v1/models/m", data=body)
        prepared = session.prepare_request(url)
        prepared.url += requests.utils.quote(path, safe="/:%?#")
        response = session.send(prepared, timeout=20)
    assert response.status_code in (200, 400, 404, 413, 501), response.text


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_any_grpc_message_gets_an_answer(server, data):
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=20)
    assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


@pytest.mark.slow
def test_memory_is_flat_after_ten_thousand_bad_requests(server):
    session = requests.Session()
    url = f"http://{server.rest_address}/v1/models"
    image = toy_models.png(90, 90)

    def b64(data):
        return json.dumps(
            {
                "signature_name": "segment_bytes",
                "instances": [{"b64": base64.b64encode(data).decode()}],
            }
        )

    bad = [
        (f"{url}/m:predict", b64(image[:-30])),
        (f"{url}/m:predict", b64(png_header(50_000, 50_000))),
        (f"{url}/m:predict", '{"instances": ' + "[" * 5000),
        (f"{url}/m:predict", json.dumps({"instances": np.zeros((1, 90, 90, 2)).tolist()})),
        (f"{url}/m:predict", '{"instances": [[[[NaN]]]]}'),
        (f"{url}/m:predict", b"\xff" * 100_000),
    ]
    wrong = request_of(np.zeros((1, 90, 90, 1), np.float64))
    channel = grpc.insecure_channel(server.grpc_address)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(times):
        for n in range(times):
            if n % 7 == 6:
                with pytest.raises(grpc.RpcError):
                    stub.Predict(wrong, timeout=20)
            else:
                where, data = bad[n % 7]
                assert session.post(where, data, timeout=20).status_code in (400, 413)
            if n % 50 == 0:  # names that nobody has must not be remembered
                assert session.get(f"{url}/made-up-{n}", timeout=20).status_code == 404

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    ask(2000)
    before = resident()
    ask(10_000)
    after = resident()
    channel.close()
    assert after - before < 10, f"{before:.0f} MiB before, {after:.0f} MiB after"
    assert serves(server) and server.budget.held == 0
