"""grpc.health.v1 as Kubernetes' probes and gRPC's load balancing ask it."""

from __future__ import annotations

import shutil
import threading
import time

import grpc
import pytest
import toy_models
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_models.write(tmp_path_factory.mktemp("made") / "1")


def ask(service=""):
    return health_pb2.HealthCheckRequest(service=service)


def test_it_serves_while_a_model_is_available_and_needs_no_token(tmp_path, model):
    (tmp_path / "m").mkdir()
    with (
        toy_models.serving(tmp_path, token="a token of this test") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(ask(), timeout=20).status == NOT_SERVING  # no version yet
        toy_models.publish_copy(model, tmp_path / "m" / "1")
        until = time.monotonic() + 20
        while check(ask(), timeout=20).status != SERVING:
            assert time.monotonic() < until
            time.sleep(0.02)
        for service in ("PredictionService", "ModelService"):  # as TensorFlow Serving, and gRPC
            assert check(ask(service), timeout=20).status == SERVING
            assert check(ask(f"tensorflow.serving.{service}"), timeout=20).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check(ask("m"), timeout=20)
        assert caught.value.code().name == "NOT_FOUND"
        for method in (
            "/tensorflow.serving.ModelService/GetModelStatus",
            "/x/grpc.health.v1.Health/",
        ):
            with pytest.raises(grpc.RpcError) as caught:  # all else needs the token
                channel.unary_unary(method)(b"", timeout=20)
            assert caught.value.code().name == "UNAUTHENTICATED"


def test_a_watcher_is_told_of_changes_and_does_not_delay_the_end(tmp_path, model):
    toy_models.publish_copy(model, tmp_path / "m" / "1")
    told, ended = [], []
    with (
        toy_models.serving(tmp_path, drain_seconds=60.0) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        def watch():
            told.extend(one.status for one in stub.Watch(ask(), timeout=120))
            ended.append(time.monotonic())

        unknown = stub.Watch(ask("m"), timeout=120)
        assert next(unknown).status == UNKNOWN
        unknown.cancel()
        thread = threading.Thread(target=watch)
        thread.start()
        for present, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            if not present:
                shutil.rmtree(tmp_path / "m" / "1")
            elif told:
                toy_models.publish_copy(model, tmp_path / "m" / "1")
            until = time.monotonic() + 30
            while not told or told[-1] != status:
                assert time.monotonic() < until, told
                time.sleep(0.02)
        stopped = time.monotonic()
        server.close()
        thread.join(30)
        assert told == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        assert ended[0] - stopped < 30  # and not after the 60 seconds for requests to end
