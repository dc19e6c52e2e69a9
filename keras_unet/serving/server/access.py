"""The bearer token that a server may ask for."""

from __future__ import annotations

import hmac


class Token:
    """Compares what a client sent, in a time that tells nothing."""

    def __init__(self, token: str) -> None:
        self._expected = b"Bearer " + token.encode()

    def __call__(self, authorization: str | bytes) -> bool:
        """Whether an Authorization header holds the token."""
        given = authorization.encode() if isinstance(authorization, str) else authorization
        return hmac.compare_digest(given, self._expected)
