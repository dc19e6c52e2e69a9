"""What a server that is told to stop does with the requests that it has, and with new ones."""

from __future__ import annotations

import json
import socket
import threading
import time

import grpc
import numpy as np
import requests
import tensorflow as tf
import toy_models
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def wait(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


class Load:
    """Requests of both protocols that the server holds: one is computed, the others wait."""

    def __init__(self, server, count):
        self.server, self.codes = server, []
        version = server.manager.acquire("m")
        self.go, run = threading.Event(), version.servable.run
        version.servable.run = lambda *a: (self.go.wait(60), run(*a))[1]
        version.leave()
        self.threads = [
            threading.Thread(target=target) for target in [self.rest, self.grpc] * (count // 2)
        ]
        for thread in self.threads:
            thread.start()
        wait(lambda: server.scheduler.waiting() == count - 1)

    def rest(self):
        url = f"http://{self.server.rest_address}/v1/models/m:predict"
        data = json.dumps({"instances": [[[[0.5]]]], "signature_name": "serving_default"})
        try:
            self.codes.append(requests.post(url, data, timeout=60).status_code)
        except requests.ConnectionError as error:
            self.codes.append(type(error).__name__)

    def grpc(self):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 2, 2, 1), "f")))
        with grpc.insecure_channel(self.server.grpc_address) as channel:
            try:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                stub.Predict(request, timeout=60)
                self.codes.append("OK")
            except grpc.RpcError as error:
                self.codes.append(error.code().name)

    def join(self):
        for thread in self.threads:
            thread.join(60)


def connects(address):
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def test_what_waits_is_answered_and_nothing_new_is_taken(tmp_path):
    toy_models.write(tmp_path / "m" / "1")
    batching = {"max_batch_size": 1, "max_enqueued_batches": 16, "num_batch_threads": 1}
    with toy_models.serving(tmp_path, batching=batching, drain_seconds=60.0) as server:
        load = Load(server, 8)
        closing = threading.Thread(target=server.close)
        closing.start()
        addresses = [server.grpc_address, server.rest_address]
        wait(lambda: not any(connects(one) for one in addresses))
        assert load.codes == [] and closing.is_alive()
        load.go.set()
        load.join()
        closing.join(60)
    assert sorted(map(str, load.codes)) == ["200"] * 4 + ["OK"] * 4


def test_it_does_not_wait_longer_than_it_was_told(tmp_path):
    toy_models.write(tmp_path / "m" / "1")
    batching = {"max_batch_size": 1, "num_batch_threads": 1}
    with toy_models.serving(tmp_path, drain_seconds=0.5, batching=batching) as server:
        load = Load(server, 4)
        threading.Timer(20, load.go.set).start()  # far beyond the time that it has
        server.close()
        assert not load.go.is_set()
        load.go.set()
        load.join()
    assert len(load.codes) == 4 and not {"OK", 200} & set(load.codes)
