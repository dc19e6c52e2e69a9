"""What other clients send that TensorFlow Serving takes: compressed, from pages, half closed."""

from __future__ import annotations

import base64
import collections
import gzip
import json
import socket

import grpc
import numpy as np
import pytest
import requests
import toy_models
from bounded_server import publish, request_of
from tensorflow_serving.apis import prediction_service_pb2_grpc

BODY = b'{"instances": [[[[0.5]]]]}'
PATH = "/v1/models/m:predict"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="module")
def server(root):
    with toy_models.serving(root) as server:
        yield server


@pytest.fixture(scope="module")
def open_to_pages(root):
    with toy_models.serving(root, cors=True, token="a long token") as server:
        yield server


def post(server, data, **headers):
    url = f"http://{server.rest_address}{PATH}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(url, data, headers=named, timeout=20)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("identity, gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]) + bytes(20)),
        ("gzip", gzip.compress(BODY + b" " * 1_000_000)),
        ("identity", BODY),
        ("", BODY),
    ],
    ids=["gzip", "GZIP", "x-gzip", "list", "members", "long", "identity", "none"],
)
def test_bodies_may_be_compressed(server, encoding, body):
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    for data in (body, pieces if len(body) < 5000 else body):
        response = post(server, data, Content_Encoding=encoding)
        assert response.status_code == 200, response.text
        assert response.json() == {"predictions": [[[[0.5, 0.5]]]]}
    assert server.budget.held == 0


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "identity, br"])
def test_other_compressions_are_named(server, encoding):
    response = post(server, BODY, Content_Encoding=encoding)
    assert response.status_code == 400 and encoding in response.json()["error"]


def test_a_byte_order_mark_is_passed_over(server):
    assert post(server, b"\xef\xbb\xbf" + BODY).status_code == 200
    assert post(server, b"\xef\xbb\xbf" + BODY.replace(b"0.5", b"NaN")).status_code == 400
    assert "NaN" in post(server, b"\xef\xbb\xbf" + BODY.replace(b"0.5", b"NaN")).text


@pytest.mark.parametrize("size", range(60, 64))
def test_base64_in_lines_and_without_padding(server, size):
    """absl::Base64Unescape: white space anywhere, no padding or all of it, "." for "="."""
    text = base64.b64encode(toy_models.png(3, 2, size)).decode()
    text = text[: len(text) - 4] + text[-4:]
    bare = text.rstrip("=")
    lines = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "\n"
    for form in (text, bare, lines, f" {bare}\t", bare + "." * (len(text) - len(bare))):
        document = {"signature_name": "segment_bytes", "instances": [{"b64": form}]}
        assert post(server, json.dumps(document)).status_code == 200, form
    for wrong in ("data:image/png;base64," + text, bare + "=" * 3, "A", "-_-_", text + "é"):
        document = {"signature_name": "segment_bytes", "instances": [{"b64": wrong}]}
        response = post(server, json.dumps(document))
        assert response.status_code == 400 and "base64" in response.json()["error"], wrong


ORIGIN = {"Origin": "http://app.example"}
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def test_pages_of_other_origins_are_let_in_if_told(server, open_to_pages):
    for one, told in ((server, False), (open_to_pages, True)):
        url = f"http://{one.rest_address}{PATH}"
        asked = requests.options(url, headers={**ORIGIN, **ASKED}, timeout=20)
        assert asked.status_code == 200 and asked.content == b""
        right = {**ORIGIN, "Authorization": "Bearer a long token"}
        given = requests.post(url, BODY, headers=right, timeout=20)
        wrong = requests.post(url, b"{", headers=right, timeout=20)
        assert (given.status_code, wrong.status_code) == (200, 400)
        for answer in (asked, given, wrong):
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == ("*" if told else None)
        if told:
            assert asked.headers["access-control-allow-methods"] == "POST, GET"
            assert "Authorization" in asked.headers["access-control-allow-headers"]
            refused = requests.post(url, BODY, headers=ORIGIN, timeout=20)
            assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers
        for origin in ({}, {"Origin": "null"}):
            assert requests.options(url, headers=origin, timeout=20).status_code == 400


def raw(server, data, *, half_closed=False):
    """The whole answer to these bytes."""
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as one:
        one.sendall(data)
        if half_closed:
            one.shutdown(socket.SHUT_WR)
        found = b""
        while part := one.recv(65536):
            found += part
        return found


def request(target, version="1.1", body=BODY, host="Host: localhost\r\nConnection: close\r\n"):
    head = f"POST {target} HTTP/{version}\r\n{host}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "target",
    [
        "/V1/Models/m:Predict",
        "/v1/MODELS/m/VERSIONS/1:PREDICT",
        "http://localhost:8501/v1/models/m:predict",
        "HTTP://127.0.0.1/v1/models/m:predict?x=http://y",
    ],
)
def test_paths_in_any_case_and_absolute(server, target):
    assert b"200 OK" in raw(server, request(target))


def test_the_host_of_an_absolute_uri_is_the_one_that_counts(server):
    assert b" 403 " in raw(server, request("http://evil.example/v1/models/m:predict"))
    assert b" 405 " in raw(server, request("http://localhost"))  # the page's
    name = request("/v1/models/M:predict")  # a model's name has a case
    assert b" 404 " in raw(server, name)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_client_that_ends_its_sending_gets_its_answer(server, version):
    run = slowly(server)
    with run:
        for host in ("Host: localhost\r\n", "Host: localhost\r\nConnection: keep-alive\r\n"):
            data = request(PATH, version, host=host)
            found = raw(server, data, half_closed=True)
            assert found.endswith(b'{"predictions":[[[[0.5,0.5]]]]}')
        if version == "1.1":
            two = raw(server, request(PATH, host="Host: x\r\n") * 2, half_closed=True)
            assert two.count(b"predictions") == 2


class slowly:
    """The model takes a moment, so that its client has ended its sending before."""

    def __init__(self, server):
        import time

        version = server.manager.acquire("m")
        self.servable, run = version.servable, version.servable.run
        self.before = run
        self.servable_run = lambda *a: (time.sleep(0.4), run(*a))[1]
        version.leave()

    def __enter__(self):
        self.servable.run = self.servable_run

    def __exit__(self, *_):
        self.servable.run = self.before


def test_a_thousand_calls_on_one_channel(root):
    """More than a channel's usual 256 streams: answered, or "try later" by the queue's limit."""
    message = request_of(np.zeros((1, 8, 8, 1), "f"))
    with toy_models.serving(root) as server, grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(message, timeout=20)
        for calls in (400, 1000):
            codes = collections.Counter()
            for one in [stub.Predict.future(message, timeout=60) for _ in range(calls)]:
                error = one.exception()
                codes[error.code().name if error else "OK"] += 1
                assert error is None or "later" in error.details()
            assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"} and codes["OK"] >= 128, codes


def test_more_calls_than_the_server_holds_are_told_so(root):
    message = request_of(np.zeros((1, 8, 8, 1), "f"))
    with (
        toy_models.serving(root, limits={"connections": 20}) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with slowly(server):
            calls = [stub.Predict.future(message, timeout=60) for _ in range(60)]
            codes = {call.exception().code().name for call in calls if call.exception()}
        assert codes == {"RESOURCE_EXHAUSTED"}
        assert stub.Predict(message, timeout=20)
