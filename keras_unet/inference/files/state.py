"""State of a prediction on disk: records and unfinished planes, so that a stopped run goes on.

They lie in a hidden folder within the output folder, for one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from pydantic import Field, ValidationError

from keras_unet.disk import locked, remove, replacing, sync, sync_file, sync_folder
from keras_unet.errors import DataError
from keras_unet.inference.ownership import PREDICTED, broken, size_of
from keras_unet.settings import Frozen


class Identity(Frozen):
    """What a result follows from: where it is the same, the result is the same."""

    version: str  # of this package
    model: tuple[str, ...]  # SHA-256 of each model file
    input: dict[str, Any]  # see `fingerprint`
    options: dict[str, Any]

    def changes(self, other: Identity) -> list[str]:
        """What differs, in words for a message: `model`, `input`, `version`, or option names."""
        ours, theirs = self.model_dump(), other.model_dump()
        names = [k for k in ("version", "model", "input") if ours[k] != theirs[k]]
        options = sorted(set(self.options) | set(other.options))
        return names + [k for k in options if self.options.get(k) != other.options.get(k)]


class Record(Frozen):
    """How far one file has come. `results` is None as long as it is unfinished.

    It has `results` before these are moved to their places, so that a kill in between leaves no
    file whose owner is unknown.
    """

    format: int = 1
    identity: Identity
    size: tuple[int, int] | None = None  # of the page computed last,
    tile: tuple[int, int] | None = None  # the tile it was computed with,
    batch: int | None = None  # and how many together: both can change the last bits
    page: int = 0
    row: int = 0  # of that page: rows above it are in the scratch files
    ratio: tuple[float, float] | None = None  # at which the network sees them, see `scale.Ratio`
    results: dict[str, int] | None = None  # name -> bytes, see `size_of`
    source: str | None = None  # where the image lies
    # results of a call before, which those of this one replace
    earlier: dict[str, int] = Field(default_factory=dict)

    def lacking_in(self, folder: Path) -> list[str]:
        """The results that are no longer there."""
        return [name for name in self.results or () if size_of(folder / name) is None]

    def changed_in(self, folder: Path) -> list[str]:
        """The results that are there, but not as they were written."""
        found = {name: size_of(folder / name) for name in self.results or ()}
        return [k for k, v in found.items() if v is not None and v not in self.sizes(k)]

    def sizes(self, name: str) -> list[int]:
        """The sizes that a result of this name may have where nobody has changed it."""
        return [found[name] for found in (self.results or {}, self.earlier) if name in found]

    def unchanged_in(self, folder: Path) -> dict[str, int]:
        """The results that lie in `folder` as they were written: name -> bytes."""
        names = {**(self.results or {}), **self.earlier}
        found = {name: size_of(folder / name) for name in names}
        return {k: v for k, v in found.items() if v is not None and v in self.sizes(k)}


def read_record(path: Path) -> Record | None:
    """The record, or None if there is none, or none that this version can read."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a folder by the names of their images, without those that can't be read."""
    found = {stem: read_record(path) for stem, path in _record_files(folder).items()}
    return {stem: record for stem, record in found.items() if record is not None}


def _record_files(folder: Path) -> dict[str, Path]:
    return {path.name.removesuffix(".json"): path for path in folder.glob("[!.]*.json")}


def write_record(path: Path, record: Record) -> None:
    """Writes a record whole or not at all, and waits until it is on the disk."""
    with replacing(path) as beside:
        beside.write_text(record.model_dump_json(indent=1), encoding="utf-8")


def synced_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """`Record.results` of files that lie in `folder`, once they are on the disk."""
    for name in names:
        path = folder / name
        (sync if path.is_dir() else sync_file)(path)
    return {name: size_of(folder / name) or 0 for name in names}


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size and time of change of a file; for a folder (Zarr), a hash of those within it."""
    if not path.is_dir():
        stat = path.stat()
        return {"name": path.name, "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
    found = [
        (str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if (stat := file.stat()) and file.is_file()
    ]
    listing = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    return {"name": path.name, "files": len(found), "listing": listing}


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


class Scratch(AbstractContextManager["Scratch"]):
    """A raw file of planes [H, W], several a page, pages of any sizes; opened again, it goes on.

    Plain reads and writes rather than a memory map: mapped pages count as this process's memory.

    Args:
        path: of the file; made if absent.
        shapes: (planes, H, W) of each page.
        dtype: of the pixels.
    """

    def __init__(
        self, path: Path, shapes: Sequence[tuple[int, int, int]], dtype: DTypeLike
    ) -> None:
        self.path = path
        self.shapes = tuple(shapes)
        self.dtype = np.dtype(dtype)
        sizes = [int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize for shape in shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def write(self, page: int, row: int, band: np.ndarray) -> None:
        """Puts `band` [h, W, planes] at `row` of a page."""
        for plane in range(band.shape[2]):
            rows = np.ascontiguousarray(band[..., plane], self.dtype)
            data = memoryview(rows.view(np.uint8).data).cast("B")
            at = self._at(page, plane, row)
            while data:  # a disk that fills up takes a part before it refuses the rest
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count

    def read(self, page: int, plane: int, rows: slice, step: int = 1) -> np.ndarray:
        """Rows start … stop - 1 of a plane; with `step`, every so many-th row and column."""
        if step == 1:
            return self._rows(page, plane, rows.start, rows.stop - rows.start)
        taken = range(rows.start, rows.stop, step)
        out = np.empty((len(taken), -(-self.shapes[page][2] // step)), self.dtype)
        for number, row in enumerate(taken):
            out[number] = self._rows(page, plane, row, 1)[0, ::step]
        return out

    def _rows(self, page: int, plane: int, first: int, count: int) -> np.ndarray:
        width = self.shapes[page][2]
        data = bytearray(count * width * self.dtype.itemsize)
        view, at = memoryview(data), self._at(page, plane, first)
        while view:
            got = os.preadv(self._file, [view], at)
            if not got:
                raise OSError(f"{self.path}: ends before row {first + count}")
            view, at = view[got:], at + got
        return np.frombuffer(data, self.dtype).reshape(count, width)

    def _at(self, page: int, plane: int, row: int) -> int:
        _, height, width = self.shapes[page]
        return self._starts[page] + (plane * height + row) * width * self.dtype.itemsize

    def sync(self) -> None:
        """Returns when what was written has reached the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


LOCK = "lock"
SCRATCHES = ("classes", "chances", "foreground", "labels")


class Workplace(AbstractContextManager["Workplace"]):
    """The folder `.predict` in `output`, both made if absent; used in a `with` block.

    It holds for each image a record (`cells.json`, which stays) and the unfinished results.

    Raises:
        DataError: another process is writing there. OSError: no folder can be made there.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / PREDICTED

    def __enter__(self) -> Workplace:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(
            self.folder,
            name=LOCK,
            busy=lambda holder: DataError(
                f"{self.output}: another prediction ({holder}) is writing there; wait for it, or "
                "choose another output folder"
            ),
        )
        self._lock.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def record(self, stem: str) -> Path:
        return self.folder / f"{stem}.json"

    def scratch(self, stem: str, what: str) -> Path:
        return self.folder / f"{stem}.{what}"

    def clear(self, stem: str) -> None:
        """Removes what was computed of an image."""
        for what in SCRATCHES:
            self.scratch(stem, what).unlink(missing_ok=True)

    def publish(self, names: Iterable[str]) -> None:
        """Moves finished results into the output folder, where they replace older ones.

        Called again after a kill, it goes on.
        """
        for name in names:
            new, place, old = self.folder / name, self.output / name, self.folder / f"{name}.old"
            if not new.exists():
                continue
            remove(old)
            if place.is_dir():  # a folder can't be replaced by a rename
                place.rename(old)
            new.replace(place)
            remove(old)
        sync_folder(self.output)


def publish(place: Workplace, stem: str, record: Record) -> None:
    """Moves an image's results to their places, and removes those of the call before.

    What somebody changed since it was written stays. Called again after a kill, it goes on.

    Args:
        record: with its results, already written.
    """
    assert record.results is not None
    place.publish(record.results)
    for name, size in record.earlier.items():
        if name not in record.results and size_of(place.output / name) == size:
            remove(place.output / name)
    place.clear(stem)
    if record.earlier:
        write_record(place.record(stem), record.model_copy(update={"earlier": {}}))


def tidy(place: Workplace, stems: Collection[str]) -> list[str]:
    """Ends what a killed call had begun to publish, and removes what nobody will go on with.

    That is: what was computed of an image that is neither among those to predict nor any longer
    where it was.

    Args:
        place: locked.
        stems: of the images to predict.

    Returns:
        The images (file names) whose unfinished results were removed.
    """
    kept, gone = {LOCK}, []
    for stem, path in _record_files(place.folder).items():
        record = read_record(path)
        kept.add(path.name)
        if record is not None and record.results is not None:
            waiting = [name for name in record.results if (place.folder / name).exists()]
            for name in waiting:  # it had not reached the disk as the power failed
                if size_of(place.folder / name) != record.results[name]:
                    remove(place.folder / name)
            if all(_replaceable(place.output / n, record.sizes(n)) for n in waiting):
                publish(place, stem, record)
            else:  # changed by hand in between: refused, unless it may be overwritten
                kept.update(waiting)
        elif record is None or stem in stems or _there(record):
            kept.update(place.scratch(stem, what).name for what in SCRATCHES)
        else:
            if any(place.scratch(stem, what).exists() for what in SCRATCHES):
                gone.append(str(record.identity.input.get("name", stem)))
            if not record.earlier:  # else it still tells whose those results are
                kept.discard(path.name)
    for path in list(place.folder.iterdir()):
        if path.name not in kept:
            remove(path)
    return gone


def _replaceable(path: Path, sizes: Collection[int]) -> bool:
    return size_of(path) in (None, *sizes) or broken(path) is not None


def _there(record: Record) -> bool:
    return record.source is None or Path(record.source).exists()
