"""Logs: one JSON object a line, and no line that a client can repeat without end."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from keras_unet.serving.server import observe

get = logging.getLogger


@pytest.fixture
def said(monkeypatch):
    """What was written to stderr, as objects."""
    stream, names = io.StringIO(), (observe.logger.name, "uvicorn.error", "grpc", "asyncio")
    before = [(one, one.handlers[:], one.propagate, one.level) for one in map(get, names)]
    monkeypatch.setattr(sys, "stderr", stream)
    observe.log_to_stderr()
    monkeypatch.undo()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for one, handlers, propagate, level in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def test_an_event_is_a_line_whatever_is_in_it(said):
    observe.log_event("request", "warning", model="a\nb", path='"')
    (line,) = said()
    assert line.pop("time") and line == {
        "level": "warning", "event": "request", "model": "a\nb", "path": '"'
    }  # fmt: skip


def test_what_clients_can_repeat_is_said_once_a_minute(said):
    for _ in range(1000):
        get("uvicorn.error").warning("Invalid HTTP request received.")
        get("asyncio").error("socket.accept() out of system resource")
        observe.log_event("available")
    found = [line["event"] for line in said()]
    assert found.count("available") == 1000 and len(found) == 1002


def test_a_message_comes_again_later():
    seldom = observe.RateLimit(60)
    record = logging.LogRecord("a", logging.WARNING, "", 0, "Invalid request", None, None)
    passed = []
    for seconds in (0, 59, 61, 62, 130):
        record.created = 1e9 + seconds
        passed.append(seldom.filter(record))
    assert passed == [True, False, True, False, True]
    for number in range(3000):  # however many there are
        record.msg = f"message {number}"
        assert seldom.filter(record)
    assert len(seldom._last) <= 1000
