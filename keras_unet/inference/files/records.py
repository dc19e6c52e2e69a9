"""What `predict_files` remembers of each file, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from keras_unet.inference.files.claims import size_of


class Identity(BaseModel):
    """What a result follows from: where it is the same, the result is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Record(BaseModel):
    """How far one file has come. `results` is None as long as it is unfinished.

    It has `results` before these are moved to their places, so that a kill in between leaves no
    file whose owner is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    identity: Identity
    size: tuple[int, int] | None = None  # of the page computed last,
    tile: tuple[int, int] | None = None  # the tile it was computed with,
    batch: int | None = None  # and how many together: both can change the last bits
    page: int = 0
    row: int = 0  # of that page: rows above it are in the scratch files
    results: dict[str, int] | None = None  # name -> bytes, see `size_of`
    source: str | None = None  # where the image lies
    earlier: dict[str, int] = {}  # results of a call before, which those of this one replace

    def finished_in(self, folder: Path) -> bool:
        """Whether the results are there, as large as they were."""
        return self.results is not None and all(
            size_of(folder / name) == size for name, size in self.results.items()
        )

    def corrected_in(self, folder: Path) -> bool:
        """Whether the results are all there, and one of them was changed since."""
        sizes = [size_of(folder / name) for name in self.results or ()]
        return bool(sizes) and None not in sizes and not self.finished_in(folder)

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
    found = {path.name.removesuffix(".json"): read_record(path) for path in folder.glob("*.json")}
    return {stem: record for stem, record in found.items() if record is not None}


def write_record(path: Path, record: Record) -> None:
    """Writes a record whole or not at all, and waits until it is on the disk."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(record.model_dump_json(indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def describe_results(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """`Record.results` of files that lie in `folder`."""
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
