"""Too much of anything: refused quickly, and everybody else is served."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow as tf
import toy_models
from bounded_server import (
    LIMITS,
    png_header,
    post,
    publish,
    refusal,
    request_of,
    segment,
    serves,
)
from tensorflow_serving.apis import predict_pb2

from keras_unet.serving.protocol import json_tensors


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="module")
def server(root):
    with toy_models.serving(root, limits=LIMITS) as server:
        yield server


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
