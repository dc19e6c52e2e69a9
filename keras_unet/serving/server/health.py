"""grpc.health.v1, gRPC's own health protocol: what Kubernetes' probes and load balancers ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

METHODS = "/grpc.health.v1.Health/"
_EVERY = 1.0  # seconds between two looks at what a watcher is told of
_ANSWER = health_pb2.HealthCheckResponse
_SERVICES = {
    "",  # the server as a whole
    "PredictionService",  # as TensorFlow Serving names them
    "ModelService",
    "tensorflow.serving.PredictionService",  # as gRPC does
    "tensorflow.serving.ModelService",
}


class Health(health_pb2_grpc.HealthServicer):
    """SERVING while at least one model is available, as /healthz; needs no token.

    Args:
        names: the models that are available now.
    """

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        self._names = names
        self._stopping = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:
        """One answer; NOT_FOUND for a service that is not here."""
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return _ANSWER(status=self._now(request.service))

    async def Watch(self, request: Any, context: Any) -> Any:
        """An answer at once and at every change, until the server stops."""
        told = None
        while True:
            stopping = self._stopping.is_set()
            now = self._now(request.service)
            if now != told:
                await context.write(_ANSWER(status=now))
                told = now
            if stopping:
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), _EVERY)
            except asyncio.TimeoutError:
                continue

    def stop(self) -> None:
        """Nothing is served from now on; ends the watches, which would delay a shutdown."""
        self._stopping.set()

    def _now(self, service: str) -> Any:
        if service not in _SERVICES:
            return _ANSWER.SERVICE_UNKNOWN
        if self._names() and not self._stopping.is_set():
            return _ANSWER.SERVING
        return _ANSWER.NOT_SERVING
