"""Clients that are slow to send, slow to take their answer, or gone before it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time

import numpy as np
import pytest
import requests
import toy_models

from keras_unet.serving.server import embedded, http


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.write(root / "m" / "1")
    return root


def serves(server):
    url = f"http://{server.rest_address}/v1/models/m:predict"
    return requests.post(url, '{"instances": [[[[0.5]]]]}', timeout=20).status_code == 200


def connect(server, timeout=15.0):
    host, port = server.rest_address.split(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def test_a_body_that_does_not_come_is_cut_off_and_disturbs_nobody(root):
    body = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
    with toy_models.serving(root, limits={"slow_seconds": 1.0}) as server, connect(server) as one:
        one.sendall(body)
        assert serves(server)
        assert b"408" in one.recv(100)


def test_headers_that_trickle_in_are_cut_off(root, monkeypatch):
    monkeypatch.setattr(http, "_KEEP_ALIVE", 1)
    with toy_models.serving(root, limits={"slow_seconds": 1.0}) as server:
        with connect(server, 0.1) as one:
            until, ended = time.monotonic() + 15, False
            while not ended:
                assert time.monotonic() < until
                try:
                    one.sendall(b"G")
                    ended = one.recv(10) == b""
                except TimeoutError:
                    continue  # still open
                except ConnectionError:
                    ended = True
        assert serves(server)


@pytest.fixture
def patient(root, monkeypatch):
    """A server that waits four seconds for whoever takes nothing of an answer of 10 MB."""
    made = []

    class Seen(http.HttpServer):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(http, "_KEEP_ALIVE", 1)
    monkeypatch.setattr(embedded, "HttpServer", Seen)
    limits = {"slow_seconds": 4.0, "request_bytes": 64 << 20, "pixels": 1 << 24}
    with toy_models.serving(root, limits=limits) as server:
        yield server, made[0].server_state.connections
        assert serves(server)


@pytest.fixture(scope="module")
def large():
    return json.dumps({"instances": np.zeros((1, 1000, 1000, 1), int).tolist()}).encode()


@pytest.mark.slow
@pytest.mark.parametrize("closing", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_take_its_answer_is_cut_off(patient, large, closing):
    server, connections = patient
    host, port = server.rest_address.split(":")
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(30)
        one.connect((host, int(port)))
        one.sendall(head % (len(large), closing) + large)
        until = time.monotonic() + 60
        while connections:  # each of them keeps its answer
            assert time.monotonic() < until
            time.sleep(0.05)
        first = one.recv(1000)
        assert first.startswith(b"HTTP/1.1 200")
        whole, got = int(re.search(rb"content-length: (\d+)", first)[1]), len(first)
        with contextlib.suppress(ConnectionResetError):
            while data := one.recv(1 << 20):  # what the system had of it
                got += len(data)
    assert got < whole


@pytest.mark.slow
def test_a_client_that_takes_its_answer_slowly_gets_it(patient, large):
    url = f"http://{patient[0].rest_address}/v1/models/m:predict"
    got = 0
    with requests.post(url, large, stream=True, timeout=30) as response:
        for data in response.iter_content(1 << 20):
            got += len(data)
            time.sleep(0.6)
    assert got == int(response.headers["content-length"]) > 9_000_000


def test_what_a_client_left_behind_is_not_computed(root):
    one_by_one = {"max_batch_size": 1, "num_batch_threads": 1}
    with toy_models.serving(root, batching=one_by_one) as server:
        version, runs = server.manager.acquire("m"), []
        go, run = threading.Event(), version.servable.run
        version.servable.run = lambda *a: (runs.append(a), go.wait(20), run(*a))[2]
        body = b'{"instances": [[[[0.5]]]]}'
        head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        staying = threading.Thread(target=lambda: serves(server))
        staying.start()
        until = time.monotonic() + 15
        while not runs:
            assert time.monotonic() < until
            time.sleep(0.01)
        with connect(server) as one:
            one.sendall(head % len(body) + body)
            while not server.scheduler.waiting():
                assert time.monotonic() < until
                time.sleep(0.01)
        gone = 'keras_unet_requests_total{api="rest",method="predict",model="m",status="499"} 1.0'
        metrics = f"http://{server.rest_address}/metrics"
        while gone not in requests.get(metrics, timeout=20).text:
            assert time.monotonic() < until
            time.sleep(0.01)
        go.set()
        staying.join()
        assert serves(server) and len(runs) == 2
        version.leave()
        assert server.budget.held == 0
