"""Ctrl-C and SIGTERM: obeyed between two steps; SIGTERM outside the steps at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

NOTED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to end; raised where its state is whole."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds what is done inside, to exit code 143, where nothing else handles it.

    Its default leaves temporary files, and to a container's first process it does nothing.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopRequest(AbstractContextManager["StopRequest"]):
    """While entered, notes SIGINT and SIGTERM instead of stopping in the middle of a step.

    A second Ctrl-C is obeyed at once, as a KeyboardInterrupt. Outside the main thread, where Python
    takes no handlers, signals do what they did before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in NOTED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raises `Interrupted` if a signal came."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
