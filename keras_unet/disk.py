"""Files that are written whole or not at all, and that outlast a power failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Writes a file beside `path`, waits until it is on the disk, and renames it."""
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        rename(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def rename(beside: Path, path: Path) -> None:
    """Renames a file, over another one too, and waits until its new name is on the disk."""
    beside.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Waits until what was written to a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until a folder's list of names is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which says that this file system syncs files only
            raise
    finally:
        os.close(handle)


def sync(folder: Path) -> None:
    """Waits until a folder and all that is in it is on the disk."""
    for entry in folder.rglob("*"):
        (sync_file if entry.is_file() else sync_folder)(entry)
    sync_folder(folder)
