"""One version of a served model: its state, who uses it, and its end when the last one leaves."""

from __future__ import annotations

import contextlib
import enum
import itertools
import threading
from pathlib import Path

from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.server.servable import Servable

_MOST = 10_000  # files of a version that are looked at
Stamp = frozenset[tuple[str, int, int, int]]


def stamp(folder: Path) -> Stamp:
    """(path, size, time of change, inode) of a folder's files: unequal if anything was replaced."""
    found = set()
    with contextlib.suppress(OSError):  # gone meanwhile: it is looked at again
        for path in itertools.islice(folder.rglob("*"), _MOST):
            one = path.stat()
            found.add((str(path), one.st_size, one.st_mtime_ns, one.st_ino))
    return frozenset(found)


class State(enum.IntEnum):
    """ModelVersionStatus.State of TensorFlow Serving."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Version:
    """A version's life: START, LOADING, AVAILABLE, UNLOADING (drains), END. Thread-safe."""

    def __init__(self, model: str, number: int, folder: Path) -> None:
        self.model = model
        self.number = number
        self.folder = folder
        self.state = State.START
        self.error: Refused | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.tried: Stamp = frozenset()  # its folder when it was loaded last
        self.seen: Stamp = frozenset()  # and when it was looked at last
        self._servable: Servable | None = None
        self._users = 0
        self._lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def servable(self) -> Servable:
        """What was loaded; only between `enter` and `leave`."""
        assert self._servable is not None
        return self._servable

    def status(self) -> tuple[int, State, Code, str]:
        """(number, state, error code, error message)."""
        error = self.error
        return (
            self.number,
            self.state,
            error.code if error else Code.OK,
            error.message if error else "",
        )

    def loading(self) -> None:
        self.tried = self.seen = stamp(self.folder)
        self.state, self.error = State.LOADING, None
        self.ended.clear()

    def loaded(self, servable: Servable) -> None:
        with self._lock:
            self._servable = servable
            self.state = State.AVAILABLE

    def failed(self, error: Refused, retry_at: float) -> None:
        self.failures += 1
        self.retry_at = retry_at
        self.error = error
        self.state = State.END
        self.ended.set()

    def changed(self, folder: Path) -> bool:
        """Whether its folder is another than was tried, and has come to rest: not while copied."""
        before, self.seen = self.seen, stamp(folder)
        if self.seen == self.tried:
            return False
        self.failures = 0
        return self.seen == before

    def pardon(self) -> None:
        """Its folder is gone: one that comes in its place has not been tried."""
        self.failures, self.retry_at = 0, 0.0

    def enter(self) -> bool:
        """Takes a place among its users, if it is available."""
        with self._lock:
            if self.state is not State.AVAILABLE:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0 and self.state is State.UNLOADING
        if last:
            self._end()

    def retire(self) -> None:
        """No new users; ends when the present ones have left."""
        with self._lock:
            if self.state is not State.AVAILABLE:
                return
            self.state = State.UNLOADING
            empty = self._users == 0
        if empty:
            self._end()

    def _end(self) -> None:
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()
        self.state = State.END
        self.ended.set()
