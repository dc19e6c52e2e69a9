"""Codes of gRPC, the HTTP status that TensorFlow Serving gives each, and `Refused`."""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """The canonical status codes (google.rpc.Code); TensorFlow's error codes are the same."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
CODE_OF_STATUS = {  # what a client makes of an HTTP status, which several codes may share
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
LONGEST = 2000  # bytes of a message: gRPC sends it as a header of at most 8 KiB, some as three


class Refused(Exception):
    """A request that is not answered: a status code and what was found and expected.

    `http_status`: where it says more than the code's own.
    """

    def __init__(self, code: Code, message: str, *, http_status: int | None = None) -> None:
        text = message.encode("utf-8", "replace")
        message = text[:LONGEST].decode("utf-8", "ignore") + (" …" if len(text) > LONGEST else "")
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = HTTP_STATUS[code] if http_status is None else http_status


def invalid(message: str) -> Refused:
    """A request that no server would answer (INVALID_ARGUMENT, 400)."""
    return Refused(Code.INVALID_ARGUMENT, message)


def too_large(message: str) -> Refused:
    """A request over one of the server's limits (RESOURCE_EXHAUSTED, 413)."""
    return Refused(Code.RESOURCE_EXHAUSTED, message, http_status=413)


def as_refused(error: BaseException) -> Refused:
    """Any exception as a refusal; TensorFlow's errors keep their code and message."""
    if isinstance(error, Refused):
        return error
    code, message = getattr(error, "error_code", None), getattr(error, "message", None)
    if isinstance(code, int) and isinstance(message, str) and 0 < code <= Code.UNAUTHENTICATED:
        return Refused(Code(code), message.removeprefix("Graph execution error:").strip())
    if isinstance(error, UnicodeError):
        return invalid(f"text that is not Unicode: {error}")
    if isinstance(error, MemoryError):
        return Refused(Code.RESOURCE_EXHAUSTED, "out of memory")
    return Refused(Code.INTERNAL, f"{type(error).__name__}: {error}")
