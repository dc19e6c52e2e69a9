"""uvicorn, with a time limit for clients that say little, or do not read their answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_unet.serving.server.settings import ServerSettings

_KEEP_ALIVE = 30  # seconds between two requests of a connection
_LOOK = 0.1  # seconds between two looks at a client that may have left
_HEADERS = 16 << 10  # bytes of a request's headers


def protocol(seconds: float) -> type[asyncio.Protocol]:
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
                http=protocol(max(limits.slow_seconds, _KEEP_ALIVE)),
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
