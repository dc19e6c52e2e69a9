"""Structured logs: a JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

logger = logging.getLogger("keras_unet.serving")
_FIELDS = "fields"


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


def event(name: str, level: str = "info", **fields: Any) -> None:
    """Logs an event with its fields."""
    logger.log(logging.getLevelName(level.upper()), name, extra={_FIELDS: fields})


def to_stderr() -> None:
    """Sends this server's, uvicorn's and grpc's logs to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (logger.name, "uvicorn.error", "grpc"):
        one = logging.getLogger(name)
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(logging.INFO if one is logger else logging.WARNING)
