"""HTTP clients that still send when they are answered, and clients that leave before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

_LINGER = 2.0  # seconds


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
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working, leaving  # an error would hold this frame, and this frame the error


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
