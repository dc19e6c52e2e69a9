"""Checkpoints of a run: written whole or not at all, verified when read, the last two kept."""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np

from keras_unet import run_layout
from keras_unet.disk import replacing
from keras_unet.errors import TrainingError

KEPT = 2
SHARE = 0.01  # of the training time that writing may take
_NAME = re.compile(r"(\d{6})-step-\d+(-[0-9a-f]{32})?\.npz")  # until 0.3 with a hash
_COUNT = "arrays"  # in the state
# by the zip archive, and by what a flipped bit makes of it
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class Checkpoint(NamedTuple):
    """What a run needs to go on: the values of its variables, in order, and plain numbers."""

    arrays: list[np.ndarray]
    state: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of a run folder: `000007-step-350.npz`.

    A file is written beside under another name, flushed to the disk and then renamed, so one that
    has its name is whole unless the disk lost a part of it; then the checksum of an array is
    another than the archive keeps, or the archive's directory at its end is missing. It holds no
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
                "expected at least one whose arrays have their checksums. Begin a new run"
            )
        return None

    @property
    def newest(self) -> Path | None:
        """The newest one that is known to be whole."""
        return self.good[-1] if self.good else None

    def last_good(self) -> str:
        """A sentence on where to go on from."""
        return f"The last good checkpoint is {self.newest or 'none: the run had just begun'}"

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
        path = self.folder / f"{self._number:06d}-step-{step}.npz"
        try:
            self.folder.mkdir(exist_ok=True)
            with replacing(path) as beside:
                _write(beside, arrays, state)
        except OSError as error:
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
        for path in self.folder.glob(".*.npz"):
            path.unlink(missing_ok=True)


class _Corrupt(Exception):
    """How a file differs from a checkpoint."""


def _files(folder: Path) -> list[tuple[int, Path]]:
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*.npz")]
    return [(int(match[1]), path) for match, path in found if match]


def _write(path: Path, arrays: Sequence[np.ndarray], state: Mapping[str, Any]) -> None:
    # the number of arrays, since no checksum is over the archive's directory
    text = np.frombuffer(json.dumps({**state, _COUNT: len(arrays)}).encode(), np.uint8)
    named: dict[str, Any] = {_name(i): array for i, array in enumerate(arrays)}
    np.savez(path, state=text, **named)


def _read(path: Path) -> Checkpoint:
    try:
        with np.load(path, allow_pickle=False) as archive:  # compares each checksum
            state = json.loads(archive["state"].tobytes())
            names = sorted(name for name in archive.files if name != "state")
            count = state.pop(_COUNT, len(names))
            if names != [_name(i) for i in range(count)]:
                raise _Corrupt(f"corrupt (it lacks some of its {count} arrays)")
            arrays = [archive[name] for name in names]
    except _DAMAGED as error:
        raise _Corrupt(f"torn or corrupt ({error})") from error
    except (OSError, ValueError, KeyError) as error:
        raise _Corrupt(f"unreadable ({error})") from error
    return Checkpoint(arrays, state, path)


def _name(number: int) -> str:
    return f"{number:05d}"
