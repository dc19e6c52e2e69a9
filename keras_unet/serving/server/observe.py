"""Logs (a JSON object a line, on stderr) and metrics (for Prometheus) of a server."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

logger = logging.getLogger("keras_unet.serving")
_FIELDS = "fields"
_REMEMBERED = 1000  # messages
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
# called after each request: (model, protocol, method, status, seconds)
Record = Callable[[str, str, str, str, float], None]
UNKNOWN = "(unknown)"  # the model label of requests that name no model: clients cannot add labels


def log_event(name: str, level: str = "info", **fields: Any) -> None:
    """Logs an event with its fields."""
    logger.log(logging.getLevelName(level.upper()), name, extra={_FIELDS: fields})


def log_to_stderr() -> None:
    """Sends this server's, uvicorn's, grpc's and asyncio's logs to stderr as JSON lines."""
    for name in (logger.name, "uvicorn.error", "grpc", "asyncio"):
        one, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        if one is not logger:
            handler.addFilter(RateLimit())
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(logging.INFO if one is logger else logging.WARNING)


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


class RateLimit(logging.Filter):
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


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "keras_unet_requests",
            "Requests by model, protocol, method and status.",
            ["model", "api", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "keras_unet_request_seconds",
            "Time from a request's last byte to its answer.",
            ["model", "api", "method"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "keras_unet_batch_rows",
            "Images computed together.",
            buckets=_ROWS,
            registry=self._registry,
        )
        self._waited = Histogram(
            "keras_unet_queue_seconds",
            "Time in the queue.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._computed = Histogram(
            "keras_unet_compute_seconds",
            "Time in TensorFlow, and for finding objects, a batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._loads = Counter(
            "keras_unet_loads",
            "Versions loaded, and failures.",
            ["model", "result"],
            registry=self._registry,
        )
        self._version = Gauge(
            "keras_unet_version_available",
            "1 while a version takes requests.",
            ["model", "version"],
            registry=self._registry,
        )

    def request(self, model: str, api: str, method: str, status: str, seconds: float) -> None:
        """One answered request."""
        self._requests.labels(model, api, method, status).inc()
        self._seconds.labels(model, api, method).observe(seconds)

    def batch(self, rows: int, waited: float, computed: float) -> None:
        """One run of the scheduler."""
        self._rows.observe(rows)
        self._waited.observe(waited)
        self._computed.observe(computed)

    def event(self, name: str, model: str, version: int) -> None:
        """One event of the manager."""
        if name in ("available", "load_failed"):
            self._loads.labels(model, name).inc()
        if name == "available":
            self._version.labels(model, str(version)).set(1)
        elif name == "unloading":
            self._version.remove(model, str(version))

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is read when Prometheus asks."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
