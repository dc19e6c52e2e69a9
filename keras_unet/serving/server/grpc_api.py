"""gRPC: PredictionService and ModelService of TensorFlow Serving, and gRPC's health service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from keras_unet.errors import ConfigError
from keras_unet.serving.protocol.codes import Code, Refused, as_refused, invalid
from keras_unet.serving.protocol.tensors import to_proto
from keras_unet.serving.server.limits import Budget, Limits, Token
from keras_unet.serving.server.model_files import from_proto
from keras_unet.serving.server.observe import Record
from keras_unet.serving.server.predictor import (
    Prediction,
    Predictor,
    decode_protos,
    metadata_response,
    status_response,
)

# a client that sends this metadata gets numbers as tensor_content, which it reads without a copy
TENSOR_CONTENT = "keras-unet-tensor-content"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_HEALTH = "/grpc.health.v1.Health/"
_HEALTH_SECONDS = 0.2  # between two looks at which models are available
_SERVICES = (
    health.OVERALL_HEALTH,
    "PredictionService",  # as TensorFlow Serving names them
    "ModelService",
    "tensorflow.serving.PredictionService",  # as gRPC does
    "tensorflow.serving.ModelService",
)


class Tls(NamedTuple):
    """Certificate chain, private key, and who signs clients' certificates (None: none is asked)."""

    certificate: bytes
    key: bytes
    client_authority: bytes | None


class GrpcApi:
    """The handlers; messages are parsed and written beside the event loop.

    Args:
        predictor: computes.
        budget: of bytes held.
        record: called after each request: (model, "grpc", method, status, seconds).
        root: model folders that a client may ask for lie in it.
        prefer_tensor_content: answer with tensor_content, whoever asks.
    """

    def __init__(
        self,
        predictor: Predictor,
        budget: Budget,
        record: Record,
        root: Path,
        *,
        prefer_tensor_content: bool = False,
    ) -> None:
        self._predictor = predictor
        self._budget = budget
        self._record = record
        self._root = root.resolve()
        self._prefer_content = prefer_tensor_content
        # one after the other, and not in the threads that predictions need: loading takes long
        self._reloading = ThreadPoolExecutor(1, thread_name_prefix="reload")

    def handlers(self) -> list[Any]:
        """To be added to a server."""
        services = {
            "tensorflow.serving.PredictionService": {
                "Predict": self._predict,
                "GetModelMetadata": self._metadata,
            },
            "tensorflow.serving.ModelService": {
                "GetModelStatus": self._status,
                "HandleReloadConfigRequest": self._reload,
            },
        }
        return [
            grpc.method_handlers_generic_handler(
                service,
                {
                    name: grpc.unary_unary_rpc_method_handler(self._guarded(name, method))
                    for name, method in methods.items()
                },
            )
            for service, methods in services.items()
        ]

    def _guarded(
        self, name: str, method: Callable[[bytes, Any, list[str]], Awaitable[bytes]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Counts the request, and turns what it raises into a status."""

        async def handle(data: bytes, context: Any) -> bytes:
            started = time.monotonic()
            model = [""]  # filled in once the request is read
            code = Code.CANCELLED  # by the client, unless it ends otherwise
            try:
                self._budget.take(len(data))
                try:
                    answer = await method(data, context, model)
                    code = Code.OK
                    return answer
                finally:
                    self._budget.give(len(data))
            except Exception as error:
                refused = as_refused(error)
                code = refused.code
            finally:
                self._record(model[0], "grpc", name, code.name, time.monotonic() - started)
            await context.abort(_STATUS[refused.code], refused.message)
            raise AssertionError("abort raises")  # pragma: no cover

        return handle

    async def _predict(self, data: bytes, context: Any, model: list[str]) -> bytes:
        request = await self._predictor.aside(_parse, predict_pb2.PredictRequest, data)
        model[0] = request.model_spec.name
        prediction = await self._predictor.predict(
            request.model_spec,
            lambda infos: decode_protos(request.inputs, infos, self._budget.each),
            request.output_filter,
            context.time_remaining(),
        )
        content = self._prefer_content or any(
            key == TENSOR_CONTENT for key, _ in context.invocation_metadata() or ()
        )
        return await self._predictor.aside(_answer, prediction, content)

    async def _metadata(self, data: bytes, context: Any, model: list[str]) -> bytes:
        request = _parse(get_model_metadata_pb2.GetModelMetadataRequest, data)
        model[0] = request.model_spec.name
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        with self._predictor.using(request.model_spec) as version:
            return metadata_response(version).SerializeToString()

    async def _status(self, data: bytes, context: Any, model: list[str]) -> bytes:
        request = _parse(get_model_status_pb2.GetModelStatusRequest, data)
        model[0] = request.model_spec.name
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return status_response(self._predictor.manager, request.model_spec).SerializeToString()

    async def _reload(self, data: bytes, context: Any, model: list[str]) -> bytes:
        request = _parse(model_management_pb2.ReloadConfigRequest, data)
        try:
            models = from_proto(request.config, self._root)
        except ConfigError as error:
            raise invalid(str(error)) from error
        for one in models:
            # a SavedModel is a program: only what the server was pointed at is loaded
            if not one.base_path.resolve().is_relative_to(self._root):
                raise Refused(
                    Code.PERMISSION_DENIED,
                    f"model {one.name}: {one.base_path} is outside the served folder",
                )
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reloading, self._predictor.manager.reload, models)
        return model_management_pb2.ReloadConfigResponse().SerializeToString()


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception:
        raise invalid(f"not a {kind.DESCRIPTOR.name} message") from None


def _answer(prediction: Prediction, content: bool) -> bytes:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = prediction.model
    response.model_spec.version.value = prediction.version
    response.model_spec.signature_name = prediction.signature
    for name, array in prediction.outputs.items():
        response.outputs[name].CopyFrom(to_proto(array, content=content))
    return response.SerializeToString()


class Health(health.aio.HealthServicer):
    """grpc.health.v1, what Kubernetes' probes and load balancers ask; it needs no token.

    SERVING while at least one model is available, as /healthz.

    Args:
        names: the models that are available now.
    """

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        super().__init__()
        self._names = names
        self._stopping = asyncio.Event()
        self._polling: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Looks at the models now, and again and again from now on."""
        await self._update()
        self._polling = asyncio.ensure_future(self._poll())

    async def stop(self) -> None:
        """Nothing is served from now on; ends the watches, which would delay a shutdown."""
        if self._polling is not None:
            self._polling.cancel()
        await self.enter_graceful_shutdown()
        self._stopping.set()

    async def Watch(self, request: Any, context: Any) -> None:
        """An answer at once and at every change, until the server stops."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=_HEALTH_SECONDS)  # the last answer is written
        finally:
            watching.cancel()
            stopping.cancel()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            await self._update()

    async def _update(self) -> None:
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if self._names() else states.NOT_SERVING
        for service in _SERVICES:
            await self.set(service, status)


class _Guard(aio.ServerInterceptor):
    """Refuses calls without the token."""

    def __init__(self, token: Token) -> None:
        self._token = token

        async def refuse(requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bearer token is needed")

        # a stream, so that the message is not waited for and held first
        self._refusal = grpc.stream_unary_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        given = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        free = handler_call_details.method.startswith(_HEALTH)  # probes have no token
        known = free or self._token(given)
        return await continuation(handler_call_details) if known else self._refusal


def make_server(
    api: GrpcApi,
    health_service: Health,
    address: str,
    *,
    limits: Limits,
    tls: Tls | None,
    token: Token | None,
) -> tuple[aio.Server, int]:
    """A gRPC server that is not started yet, and its port.

    Args:
        address: "host:port"; port 0 takes a free one.
        tls: PEM; None: without.

    Raises:
        OSError: the address is taken.
    """
    server = aio.server(
        interceptors=[_Guard(token)] if token else [],
        maximum_concurrent_rpcs=limits.connections,  # of all clients: RESOURCE_EXHAUSTED
        options=[
            ("grpc.max_receive_message_length", limits.request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_idle_ms", 600_000),
            ("grpc.max_connection_age_ms", 3_600_000),  # a call whose message never comes ends
            ("grpc.max_connection_age_grace_ms", 120_000),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(api.handlers())
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(tls.key, tls.certificate)],
                root_certificates=tls.client_authority,
                require_client_auth=tls.client_authority is not None,
            )
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from error
    if port == 0:
        raise OSError(f"gRPC cannot listen on {address}")
    return server, port
