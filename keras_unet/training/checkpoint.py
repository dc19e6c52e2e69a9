"""Checkpoints of a run: written whole or not at all, verified when read, the last two kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np

from keras_unet import run_layout
from keras_unet.disk import rename
from keras_unet.errors import TrainingError

KEPT = 2
SHARE = 0.01  # of the training time that writing may take
_NAME = re.compile(r"(\d{6})-step-\d+-([0-9a-f]{32})\.npz")


class Checkpoint(NamedTuple):
    """What a run needs to go on: the values of its variables, in order, and plain numbers."""

    arrays: list[np.ndarray]
    state: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of a run folder: `000007-step-350-<SHA-256>.npz`.

    A file is written beside under another name, flushed to the disk and then renamed, so one that
    has its name is whole unless the disk lost it, and the hash in the name tells that. It holds no
    pickle.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / run_layout.CHECKPOINTS
        self.good: list[Path] = []  # written or verified by this process, oldest first
        self._number = 1 + max((n for n, _ in _files(self.folder)), default=0)
        self._last, self._cost = time.monotonic(), 0.0

    def read(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where none was written yet.

        One that is torn or corrupt is named in a warning, and the one before is taken.

        Raises:
            TrainingError: there are some, and none is whole.
        """
        found = sorted(_files(self.folder), reverse=True)
        for _, path in found:
            try:
                checkpoint = _read(path)
            except _Corrupt as error:
                warnings.warn(
                    f"{path}: this checkpoint is {error}; taking the one before", stacklevel=2
                )
            else:
                self.good = [path]
                return checkpoint
        if found:
            names = ", ".join(path.name for _, path in found)
            raise TrainingError(
                f"{self.folder}: no checkpoint is whole (tried {names}), so this run cannot go on; "
                "expected at least one whose content has the hash in its name. Begin a new run"
            )
        return None

    @property
    def newest(self) -> Path | None:
        """The newest one that is known to be whole."""
        return self.good[-1] if self.good else None

    def due(self, seconds: float = 0.0) -> bool:
        """Is the last one `seconds` old, and old enough for writing to cost at most `SHARE`?"""
        age = time.monotonic() - self._last
        return age >= max(seconds, self._cost / SHARE)

    def write(
        self,
        step: int,
        arrays: Sequence[np.ndarray],
        state: Mapping[str, Any],
        *,
        since: float | None = None,
    ) -> Path:
        """Writes one; only then removes the ones before the last.

        Args:
            step: steps done, for the name.
            arrays, state: of a `Checkpoint`.
            since: `time.monotonic()` when collecting them began; it is a part of the cost.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written; those before stay.
        """
        start = time.monotonic() if since is None else since
        beside = self.folder / f".writing-{os.getpid()}.npz"
        try:
            self.folder.mkdir(exist_ok=True)
            digest = _write(beside, arrays, state)
            path = self.folder / f"{self._number:06d}-step-{step}-{digest}.npz"
            rename(beside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            kept = self.newest or "no checkpoint before it"
            raise TrainingError(
                f"step {step}: the checkpoint cannot be written ({error}). Still whole: {kept}. "
                f"When there is room, go on: keras-unet train --resume {quote(str(self.run))}"
            ) from error
        self._number += 1
        self.good = [*self.good, path][-KEPT:]
        for _, old in _files(self.folder):
            if old not in self.good:
                old.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - start
        return path

    def remove(self) -> None:
        """Removes all: the run is finished."""
        for path in [path for _, path in _files(self.folder)]:
            path.unlink(missing_ok=True)
        self.tidy()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def tidy(self) -> None:
        """Removes what a killed process had begun to write."""
        for path in self.folder.glob(".writing-*.npz"):
            path.unlink(missing_ok=True)


class _Corrupt(Exception):
    """How a file differs from a checkpoint."""


class _Hashed(io.RawIOBase):
    """A file that can only be written forwards, hashed on the way."""

    def __init__(self, file: Any) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _files(folder: Path) -> list[tuple[int, Path]]:
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*.npz")]
    return [(int(match[1]), path) for match, path in found if match]


def _write(path: Path, arrays: Sequence[np.ndarray], state: Mapping[str, Any]) -> str:
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    named = {f"{i:05d}": array for i, array in enumerate(arrays)}
    with path.open("wb") as file:
        hashed = _Hashed(file)
        np.savez(hashed, state=text, **named)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    return hashed.hash.hexdigest()[:32]


def _read(path: Path) -> Checkpoint:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    try:
        with path.open("rb") as file:
            found = _hash(file)
        if found != match[2]:
            raise _Corrupt(f"torn or corrupt (its hash is {found})")
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[name] for name in sorted(archive.files) if name != "state"]
            state = json.loads(archive["state"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _Corrupt(f"unreadable ({error})") from error
    return Checkpoint(arrays, state, path)


def _hash(file: Any) -> str:
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.hexdigest()[:32]
