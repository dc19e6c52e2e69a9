"""The bearer token that a server may ask for."""

from __future__ import annotations

import hmac


class Token:
    """Compares what a client sent, in a time that tells nothing."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def __call__(self, authorization: str | bytes) -> bool:
        """Whether an Authorization header holds the token; its scheme is in any case."""
        given = authorization.encode() if isinstance(authorization, str) else authorization
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._expected)
