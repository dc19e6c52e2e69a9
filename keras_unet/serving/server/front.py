"""Before the routes: whose name a request bears, and its path as TensorFlow Serving reads it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from keras_unet.serving.server import json_tensors
from keras_unet.serving.server.clients import Lingering

_ABSOLUTE = re.compile(rb"https?://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(:\d*)?", re.IGNORECASE)
_API = b"/v1/"


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
            "." not in name or name.endswith(".localhost") or name in self._hosts or _address(name)
        )


def _address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
