"""Structured logs: a JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

logger = logging.getLogger("keras_unet.serving")
_FIELDS = "fields"
_REMEMBERED = 1000  # messages


class JsonLines(logging.Formatter):
    """{"time": …, "level": …, "event": …, fields}: what a client sent cannot start a new line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Seldom(logging.Filter):
    """Lets a message pass once a minute: what any client can cause must not fill a disk."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        text = str(record.msg)
        if record.created - self._last.get(text, -self._seconds) < self._seconds:
            return False
        if len(self._last) == _REMEMBERED:
            self._last.clear()
        self._last[text] = record.created
        return True


def event(name: str, level: str = "info", **fields: Any) -> None:
    """Logs an event with its fields."""
    logger.log(logging.getLevelName(level.upper()), name, extra={_FIELDS: fields})


def to_stderr() -> None:
    """Sends this server's, uvicorn's, grpc's and asyncio's logs to stderr as JSON lines."""
    for name in (logger.name, "uvicorn.error", "grpc", "asyncio"):
        one, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        if one is not logger:
            handler.addFilter(Seldom())
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(logging.INFO if one is logger else logging.WARNING)
