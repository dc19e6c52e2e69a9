"""Broken, slow or hostile clients: refused, and everybody else is served."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import os
import socket
import threading
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import toy_models
from bounded_server import (
    LIMITS,
    png_header,
    post,
    predict,
    publish,
    request_of,
    serves,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import prediction_service_pb2_grpc


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="module")
def server(root):
    with toy_models.serving(root, limits=LIMITS) as server:
        yield server


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


def test_what_is_no_gzip_is_refused(server):
    response = post(server, zlib.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400 and "compressed" in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(bytes(64 << 20)), 413),  # 64 KB
        (gzip.compress(bytes(1 << 19)) * 3, 413),
        (gzip.compress(b"") * 5000, 400),
        (gzip.compress(b'{"instances": [[[[0.5]]]]}')[:-9], 400),
        (gzip.compress(b'{"instances": [[[[0.5]]]]}')[:-8] + bytes(8), 400),  # its checksum
        (gzip.compress(b"{}") + b"tail", 400),
        (b"", 400),
    ],
    ids=["bomb", "members", "many members", "torn", "checksum", "tail", "nothing"],
)
def test_gzip_bombs_and_torn_gzip_are_refused(server, body, status):
    held = server.budget.held
    chunks = (body[at : at + 1000] for at in range(0, len(body), 1000))
    for sent in (body, chunks):
        response = post_bytes(server, sent, "gzip")
        assert response.status_code == status, response.text
    assert server.budget.held == held and serves(server)


def test_gzip_that_unpacks_to_nothing_is_counted_as_it_comes(server):
    start, block = gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff" * 20_000
    response = post_bytes(server, iter([start, *[block] * 30]), "gzip")
    assert response.status_code == 413 and serves(server)


def post_bytes(server, data, encoding):
    url = f"http://{server.rest_address}/v1/models/m:predict"
    return requests.post(url, data, headers={"Content-Encoding": encoding}, timeout=20)


def test_compressed_messages_are_not_unpacked_beyond_the_limit(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:  # 20 KB on the wire
            call(bytes(20_000_000), timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"


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
