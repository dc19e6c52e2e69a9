"""HTTP around the routes: uvicorn with time limits, host names, bodies, the page.

Clients may trickle, stay silent, send compressed bodies, or leave before they are answered.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import re
import socket
import ssl
import time
import zlib
from collections.abc import Collection, Coroutine, Iterator
from functools import cache
from importlib import resources
from typing import Any, Protocol

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_unet.serving.protocol import json_tensors
from keras_unet.serving.protocol.codes import invalid
from keras_unet.serving.server.settings import ServerSettings

_KEEP_ALIVE = 30  # seconds between two requests of a connection
_LOOK = 0.1  # seconds between two looks at a client that may have left
_HEADERS = 16 << 10  # bytes of a request's headers
_ABSOLUTE = re.compile(rb"https?://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(:\d*)?", re.IGNORECASE)
_API = b"/v1/"
_STEP = 1 << 18  # bytes of a compressed body that are unpacked at a time
_MEMBERS = 1000  # gzip files one after the other: a body of empty ones would take long
_WITH_HEADER = 31  # zlib: gzip's header and checksum
_LINGER = 2.0  # seconds that what a client still sends is thrown away


class HttpServer(uvicorn.Server):
    """A uvicorn server on a socket of ours."""

    def __init__(
        self,
        app: Any,
        settings: ServerSettings,
    ) -> None:
        limits, authority = settings.limits, settings.tls_client_authority
        super().__init__(
            uvicorn.Config(
                app,
                http=http_protocol(max(limits.slow_seconds, _KEEP_ALIVE)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                limit_concurrency=limits.connections,
                h11_max_incomplete_event_size=_HEADERS,
                backlog=2048,
                timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
                ssl_ca_certs=None if authority is None else str(authority),
                ssl_cert_reqs=ssl.CERT_NONE if authority is None else ssl.CERT_REQUIRED,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: see `EmbeddedServer.run`."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the address is taken or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off (40 ms a request) only where the protocol is named
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except OSError as error:
        one.close()
        raise OSError(f"REST cannot listen on {host}:{port}: {error.strerror}") from error
    one.setblocking(False)
    return one


def http_protocol(seconds: float) -> type[asyncio.Protocol]:
    """An HTTP protocol that closes connections whose request headers take longer than this.

    Or of whose answer the client takes nothing for so long. uvicorn itself waits without end for
    the first request, for headers that trickle in, and for an answer to be taken.
    """

    class PatientOnce(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _probe: asyncio.TimerHandle | None = None
        _ended = False  # the client sends no more
        _unsent = 0  # bytes of the answer when the timer was set

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def eof_received(self) -> bool:  # type: ignore[override]
            """A client that has sent all may say so, and wait for its answer; or it has left.

            Only a byte sent to it tells, as who has left refuses it: "100 Continue", which every
            client of HTTP/1.1 passes over.
            """
            waits = self.cycle is not None and not self.cycle.response_complete
            if not waits or self.cycle.more_body or self.scheme == "https":
                return False
            self._ended = True
            if not self.cycle.response_started and self.scope["http_version"] == "1.1":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._look()
            return True

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._ended and self.cycle.response_complete:  # no request is left
                self.transport.close()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            if self._probe is not None:
                self._probe.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Ends the connection if the client has refused what it was sent."""
            one = self.transport.get_extra_info("socket")
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()
            elif not self.transport.is_closing():
                self._probe = self.loop.call_later(_LOOK, self._look)

        def _watch(self) -> None:
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy:
                self._forget()
            elif self._timer is None:  # also while it is closing: that waits for the answer, too
                self._wait()

        def _wait(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            self._timer = self.loop.call_later(seconds, self._close)

        def _forget(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._timer = None
            left = self.transport.get_write_buffer_size()
            if left == 0:
                self.transport.close()
            elif left < self._unsent:
                self._wait()
            else:  # `close` would keep the answer until the client takes it
                self.transport.abort()

    return PatientOnce


class Front:
    """ASGI: takes absolute URIs and "/V1/…", and refuses names that are not this server's.

    A page that somebody has open can have its own name resolve to 127.0.0.1 (DNS rebinding) and
    would then be of one origin with a server there: its requests bear the page's name.

    Args:
        app: what answers.
        hosts: names that requests may bear, beside localhost, addresses and names without a dot,
            which no page can have; None: any.
    """

    def __init__(self, app: Any, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI call."""
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host")
            raw, path = scope["raw_path"], scope["path"]
            if absolute := _ABSOLUTE.fullmatch(raw):  # as to a proxy; it is its host that counts
                host, raw = absolute[1], absolute[2] or b"/"
                path = "/" + path.partition("://")[2].partition("/")[2]
            if raw[: len(_API)].lower() == _API:
                path = _API.decode() + path[len(_API) :]
            scope = {**scope, "raw_path": raw, "path": path}
            name = "" if host is None else host.decode("latin-1")
            if host is not None and not self._known(name):
                body = json_tensors.dump(
                    {
                        "error": f"this server is not {name[:100]!r}: expected localhost, an "
                        "address, or a name that it was started with (--allow-host)"
                    }
                )
                await Lingering(body, 403, media_type="application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, host: str) -> bool:
        if self._hosts is None:
            return True
        match = _HOST.fullmatch(host)
        name = match[1].lower().rstrip(".") if match else ""
        return bool(name) and (
            "." not in name
            or name.endswith(".localhost")
            or name in self._hosts
            or _is_address(name)
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Unpacked(Protocol):
    """Turns what arrives into the body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the body that these bytes hold."""

    def end(self) -> None:
        """Raises Refused if something is missing."""


def unpacked(encoding: str) -> Unpacked:
    """For a Content-Encoding header; as TensorFlow Serving, gzip wherever it is named.

    Raises:
        Refused: another compression.
    """
    if "gzip" in encoding.lower():
        return _Gzip()
    if encoding.strip().lower() in ("", "identity"):
        return _Plain()
    raise invalid(f"a body compressed by {encoding[:40]!r} is not read; gzip is")


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def end(self) -> None:
        pass


class _Gzip:
    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = False  # output may be left when all input is taken
        while data or more:
            if self._member is None:
                data = data.lstrip(b"\0") if self._members else data  # padding, as gzip has it
                if not data:
                    return
                self._members += 1
                if self._members > _MEMBERS:
                    raise invalid(f"a compressed body of more than {_MEMBERS} gzip members")
                self._member = zlib.decompressobj(_WITH_HEADER)
            member = self._member
            try:
                piece = member.decompress(data, _STEP)
            except zlib.error as error:
                raise invalid(f"the compressed body is no gzip, or damaged ({error})") from None
            if piece:
                yield piece
            more = len(piece) == _STEP and not member.eof
            data = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                self._member = None

    def end(self) -> None:
        if self._member is not None or not self._members:
            raise invalid("the compressed body ends early")


class Lingering(Response):
    """Answers at once, then throws away what the client still sends, for a moment.

    A connection that is closed while a client sends is reset, and the answer may be lost with it.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI call."""
        headers = self.raw_headers
        start = {"type": "http.response.start", "status": self.status_code, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        until = time.monotonic() + _LINGER
        while (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(receive(), left)
            except asyncio.TimeoutError:
                break
            if not message.get("more_body"):
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Awaits `work`, and gives it up if the client leaves: it may wait behind others for long.

    Args:
        request: its body has been read.

    Raises:
        ClientDisconnect: the client has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working, leaving  # an error would hold this frame, and this frame the error


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@cache
def index_page() -> tuple[bytes, dict[str, str]]:
    """The HTML and its headers: only the script and style in the file itself may run."""
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(text, 'script')}",
            f"style-src {_hash(text, 'style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return text.encode(), {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hash(text: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
