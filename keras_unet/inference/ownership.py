"""Ownership of files in an output folder: what a person drew or corrected is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from pydantic import Field, ValidationError

from keras_unet.disk import write_text
from keras_unet.errors import DataError
from keras_unet.settings import Frozen

PREDICTED = ".predict"  # folder in which `predict` keeps what it knows
WRITTEN = ".objects.json"
_BEGINNING = 4096  # bytes


class Written(Frozen):
    """What `keras-unet objects` wrote into a folder: name -> bytes; None: it was stopped there."""

    format: int = 1
    files: dict[str, int | None] = Field(default_factory=dict)


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of all files within a folder (Zarr); None if there is none."""
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size if path.is_file() else None


def broken(path: Path) -> str | None:
    """What is wrong with a result that no program can open: nobody corrected it.

    So a power failure leaves files that had not reached the disk.
    """
    if not size_of(path):
        return "is empty"
    if path.is_dir():
        return None
    with path.open("rb") as file:
        if not any(file.read(_BEGINNING)):
            return "holds nothing but zeros"
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".tif" and _ends_early(path):
            return "is damaged"
    except Image.DecompressionBombError:
        return None
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error; as tifffile
        return "is damaged"
    return None


def _ends_early(path: Path) -> bool:
    """Whether a TIFF file lacks pixels that its tags promise."""
    import tifffile

    logger, quiet = logging.getLogger("tifffile"), logging.NullHandler()
    logger.addHandler(quiet)  # else it would print what it stumbles on
    try:
        with tifffile.TiffFile(path) as file:
            ends = [
                offset + count
                for page in file.pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    finally:
        logger.removeHandler(quiet)
    return not ends or max(ends) > path.stat().st_size


def require_own_names(wanted: Mapping[str, Iterable[str]]) -> None:
    """A DataError where two inputs would write one file; `wanted`: input -> names of its files."""
    owner: dict[str, str] = {}
    for source, names in wanted.items():
        for name in names:
            if name in owner:
                raise DataError(
                    f"{owner[name]} and {source} would both write {name}; rename one of them"
                )
            owner[name] = source


def refuse_taken(
    folder: Path,
    wanted: Mapping[str, Collection[int | None]],
    inputs: Iterable[Path],
    *,
    overwrite: bool,
) -> None:
    """Refuses to write over the inputs, or over what the same command did not leave there.

    Args:
        folder: of the results.
        wanted: names to be written -> the sizes in bytes with which earlier calls left them there;
            None among them: any. What is `broken` since is no loss.
        inputs: files (or Zarr folders) that are read.
        overwrite: only the inputs are kept.

    Raises:
        DataError: names all such files.
    """
    read = [os.path.realpath(path) for path in inputs]
    lost, others = [], False
    for name, sizes in wanted.items():
        path = folder / name
        real = os.path.realpath(path)
        size = size_of(path)
        if any(one == real or one.startswith(real + os.sep) for one in read):
            lost.append(f"\n  {path}: is one of the images")
        elif not overwrite and size is not None and size not in sizes and None not in sizes:
            if sizes and broken(path):
                continue
            why = "was changed since it was written" if sizes else "was there before"
            lost.append(f"\n  {path}: {why}")
            others = True
    if lost:
        instead = "move them, " if others else ""
        last = ", or overwrite them (--overwrite)" if others else ""
        raise DataError(
            f"{folder}: the results would replace these files:{''.join(lost)}\nNothing was "
            f"written; {instead}choose another output folder{last}"
        )


def read_written(folder: Path) -> dict[str, int | None]:
    """`Written.files` of a folder; empty where there is no record, or none of this version."""
    try:
        return dict(Written.model_validate_json((folder / WRITTEN).read_bytes()).files)
    except (OSError, ValidationError):
        return {}


@contextmanager
def recorded(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Records that the files `names` are written within the block, even if it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, {**read_written(folder), **dict.fromkeys(names)})
    try:
        yield
    finally:
        sizes = {name: size_of(folder / name) for name in names}
        others = {k: v for k, v in read_written(folder).items() if k not in sizes}
        _write(folder, others | {k: v for k, v in sizes.items() if v is not None})


def _write(folder: Path, files: dict[str, int | None]) -> None:
    write_text(folder / WRITTEN, Written(files=files).model_dump_json(indent=1) + "\n")
