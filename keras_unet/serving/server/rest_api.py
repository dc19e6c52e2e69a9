"""REST routes of TensorFlow Serving, and beside them the page, /healthz and /metrics."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from keras_unet.serving.protocol import json_tensors
from keras_unet.serving.protocol.codes import Code, Refused, as_refused, invalid
from keras_unet.serving.server.http import Lingering, index_page, unless_gone, unpacked
from keras_unet.serving.server.limits import Budget, Token
from keras_unet.serving.server.observe import Record
from keras_unet.serving.server.predictor import (
    DEFAULT,
    Predictor,
    metadata_response,
    status_response,
)

_NAME = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_ASK = re.compile(_NAME + r":(classify|regress|predict)", re.IGNORECASE)
_TELL = re.compile(_NAME + r"(/metadata)?", re.IGNORECASE)
_JSON = "application/json"
_INT64 = 2**63 - 1
_DOCUMENTS = 2  # JSON bodies that are lists at a time: these take up to twenty times their text

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type, Content-Encoding, Authorization",
}


class RestApi:
    """The routes of one server.

    Args:
        predictor: computes.
        budget: of bytes held.
        record: called after each request: (model, "rest", method, HTTP status, seconds).
        metrics: the page of /metrics.
        slow_seconds: time for a body to arrive.
        token: what a client must send, except for the page and /healthz.
        cors: pages of other origins may read the answers of /v1/….
    """

    def __init__(
        self,
        predictor: Predictor,
        budget: Budget,
        record: Record,
        metrics: Callable[[], bytes],
        *,
        slow_seconds: float,
        token: Token | None = None,
        cors: bool = False,
    ) -> None:
        self._predictor = predictor
        self._budget = budget
        self._record = record
        self._metrics = metrics
        self._slow_seconds = slow_seconds
        self._token = token
        self._cors = cors
        self._documents = asyncio.Semaphore(_DOCUMENTS)

    def app(self) -> Starlette:
        """The ASGI application."""
        prometheus = "/monitoring/prometheus/metrics"  # where TensorFlow Serving has it
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._metrics_page, methods=["GET"]),
                Route(prometheus, self._metrics_page, methods=["GET"]),
                Route("/models", self._names, methods=["GET"]),
                Route("/v1/{rest:path}", self._v1, methods=["GET", "POST", "OPTIONS"]),
            ]
        )

    async def _page(self, request: Request) -> Response:
        body, headers = index_page()
        return Response(body, media_type="text/html", headers=headers)

    async def _health(self, request: Request) -> Response:
        """200 while at least one model is served; for probes, without a token."""
        if self._predictor.manager.names():
            return Response("ok\n", media_type="text/plain")
        return Response("no model is available\n", 503, media_type="text/plain")

    async def _metrics_page(self, request: Request) -> Response:
        if refusal := self._unauthorised(request):
            return refusal
        return Response(self._metrics(), media_type="text/plain; version=0.0.4")

    async def _names(self, request: Request) -> Response:
        """{"models": [names]}, for the page; TensorFlow Serving has no such route."""
        if refusal := self._unauthorised(request):
            return refusal
        return _json(json_tensors.dump({"models": self._predictor.manager.names()}))

    async def _v1(self, request: Request) -> Response:
        started = time.monotonic()
        spec = model_pb2.ModelSpec()
        method = "status"
        response: Response | None = None
        try:
            if request.method == "OPTIONS":
                method = "options"
                response = _preflight(request)
                return response
            if refusal := self._unauthorised(request):
                response = refusal
                return response
            path = request.scope["raw_path"].decode("latin-1")
            match = (_ASK if request.method == "POST" else _TELL).fullmatch(path)
            if path.rstrip("/").lower() == "/v1/models":
                raise invalid("Missing model name in request.")
            if match is None:
                raise invalid(f"Malformed request: {request.method} {path[:200]}")
            _fill(spec, *match.groups()[:3])
            asked = (match[4] or "").lower()
            method = asked.removeprefix("/") or method
            if asked == "predict":
                response = await self._predict(request, spec)
            elif asked in ("classify", "regress"):
                raise Refused(Code.UNIMPLEMENTED, f"this server does not {asked}; use predict")
            elif asked:
                with self._predictor.using(spec) as version:
                    response = _json(_metadata_json(metadata_response(version)))
            else:
                found = status_response(self._predictor.manager, spec)
                response = _json(_proto_json(found).encode())
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            response = _error(as_refused(error))
        finally:
            code = str(response.status_code) if response else "499"
            self._record(spec.name, "rest", method, code, time.monotonic() - started)
            if response and self._cors:
                response.headers.update(_CORS)
        return response

    async def _predict(self, request: Request, spec: Any) -> Response:
        body = bytearray()
        try:
            try:
                await self._read(request, body)
            except Refused as refused:
                answer = _error(refused)
                return Lingering(answer.body, answer.status_code, media_type=_JSON)
            return await unless_gone(request, self._answer(spec, body))
        finally:
            self._budget.give(len(body))

    async def _read(self, request: Request, body: bytearray) -> None:
        """The request's body, counted as it comes; what was read is in `body` in any case."""
        unpack, arrived = unpacked(request.headers.get("content-encoding", "")), 0
        length = request.headers.get("content-length", "0")
        self._budget.fits(int(length) if length.isdigit() else 0)
        until = time.monotonic() + self._slow_seconds
        stream = request.stream().__aiter__()
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                chunk = await asyncio.wait_for(stream.__anext__(), left)
            except StopAsyncIteration:
                unpack.end()
                return
            except asyncio.TimeoutError:
                message = f"the body took more than {self._slow_seconds:g} s"
                raise Refused(Code.DEADLINE_EXCEEDED, message, http_status=408) from None
            arrived += len(chunk)
            self._budget.fits(arrived)
            for piece in unpack.feed(chunk):
                self._budget.fits(len(body) + len(piece))
                self._budget.take(len(piece))
                body += piece
                await asyncio.sleep(0)  # others are served while much is unpacked

    async def _answer(self, spec: Any, body: bytearray) -> Response:
        loop, rows, open_ = asyncio.get_running_loop(), False, True
        await self._documents.acquire()

        def close() -> None:
            nonlocal open_
            if open_:
                open_ = False
                self._documents.release()

        try:
            document = await self._predictor.aside(json_tensors.parse, body)
            spec.signature_name = json_tensors.signature_name(document) or DEFAULT

            def decode(infos: Any) -> Any:
                nonlocal rows
                try:
                    rows, inputs = json_tensors.inputs_of(document, infos)
                    return inputs
                finally:  # the arrays may wait for long, and take far less
                    document.clear()
                    loop.call_soon_threadsafe(close)

            prediction = await self._predictor.predict(spec, decode)
        finally:
            close()
        answer = await self._predictor.aside(json_tensors.answer, rows, prediction.outputs)
        return _json(answer)

    def _unauthorised(self, request: Request) -> Response | None:
        if self._token is None or self._token(request.headers.get("authorization", "")):
            return None
        response = _error(Refused(Code.UNAUTHENTICATED, "a bearer token is needed"))
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _preflight(request: Request) -> Response:
    """What a browser asks before a page of another origin sends JSON; as TensorFlow Serving."""
    if re.search("https?://", request.headers.get("origin", ""), re.IGNORECASE):
        return _json(b"")
    return _error(Refused(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"))


def _fill(spec: Any, name: str, version: str | None, label: str | None) -> None:
    spec.name = unquote(name)
    if version is not None:
        if len(version) > 20 or int(version) > _INT64:
            raise invalid(f"Failed to convert version: {version[:40]} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)


def _json(body: bytes) -> Response:
    return Response(body, media_type=_JSON)


def _error(refused: Refused) -> Response:
    body = json_tensors.dump({"error": refused.message})
    return Response(body, refused.http_status, media_type=_JSON)


def _proto_json(message: Any) -> str:
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=1,
    )


def _metadata_json(response: Any) -> bytes:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return (
        f'{{\n"model_spec":{_proto_json(response.model_spec)},\n'
        f'"metadata": {{"signature_def": {_proto_json(signatures)}}}\n}}\n'
    ).encode()
