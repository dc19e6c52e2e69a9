"""Version folders that a server watches: nothing half-written ever has an integer for its name.

TF Serving takes any folder with an integer name for a version, complete or not. So a version is
made under a name that is no integer, on the same file system, synced, and only then renamed; and
one that goes is renamed before it is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from keras_unet.disk import sync, sync_folder
from keras_unet.errors import ConfigError, ExportError
from keras_unet.remote_path import RemotePath, as_path

UNFINISHED = ".unfinished-"
REMOVED = ".removed-"
LARGEST = 2**63 - 1  # TF Serving's versions are int64; a name beyond it is none


def versions(folder: str | Path) -> list[int]:
    """The published versions in `folder`, ascending: what TF Serving would find."""
    return sorted(numbered(as_path(folder)))


@overload
def numbered(folder: Path) -> dict[int, Path]: ...
@overload
def numbered(folder: RemotePath) -> dict[int, RemotePath]: ...
@overload
def numbered(folder: Path | RemotePath) -> Mapping[int, Path | RemotePath]: ...
def numbered(folder: Any) -> Any:
    """The published versions in `folder`, each with its own folder: "00000123" is version 123.

    Of two names of one number, the first in the order of names counts.

    Raises:
        OSError: the folder is not there, or cannot be read: which is not the same as empty.
    """
    found: dict[int, Any] = {}
    for entry in sorted(folder.iterdir()):
        number = _number(entry.name)
        if number is not None:
            with contextlib.suppress(OSError):  # gone meanwhile
                if entry.is_dir():
                    found.setdefault(number, entry)
    return found


def next_number(there: Collection[int]) -> int:
    """One more than the newest version.

    Raises:
        ExportError: the newest has the last number that there is.
    """
    newest = max(there, default=0)
    if newest >= LARGEST:
        raise ExportError(
            f"version {newest} is there, and TF Serving knows no greater number; expected a "
            "smaller one: publish into another folder, or remove that version"
        )
    return newest + 1


def _number(name: str) -> int | None:
    """The version that a folder's name stands for, as TF Serving reads it."""
    if not (name.isascii() and name.isdigit()):
        return None
    digits = name.lstrip("0") or "0"
    number = int(digits) if len(digits) <= len(str(LARGEST)) else LARGEST + 1
    return number if number <= LARGEST else None


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Where to make the next version: a path in `folder`, not yet there, under the folder's lock.

    Clears what a killed publisher left (the lock says that it is dead), as far as it can: on a
    network file system, files that a server is reading stay. Whatever is at the path when the
    block ends is deleted: see `place`.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        sync_folder(path.parent)
    with locked(folder / ".lock"):
        for pattern in (UNFINISHED, REMOVED):
            for left in folder.glob(f"{pattern}*"):
                shutil.rmtree(left, ignore_errors=True)
        beside = folder / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def place(beside: Path) -> Path:
    """Syncs a complete version and gives it the next number; inside `unfinished`."""
    folder = beside.parent
    sync(beside)
    version = folder / str(next_number(versions(folder)))
    beside.rename(version)
    sync_folder(folder)
    return version


def retire(folder: Path, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Deletes all but the newest `keep` versions and the `pinned` ones; inside `unfinished`.

    Returns:
        The versions deleted.

    Raises:
        ConfigError: `keep` is not at least 1.
    """
    check_keep(keep)
    gone = [n for n in versions(folder)[:-keep] if n not in pinned]
    for number in gone:
        for path in folder.iterdir():  # "7" and "007" are the same version
            if _number(path.name) == number:
                away = path.with_name(f"{REMOVED}{path.name}-{secrets.token_hex(4)}")
                path.rename(away)
                sync_folder(folder)
                shutil.rmtree(away, ignore_errors=True)  # the next publisher clears what stays
    return gone


def check_keep(keep: int | None) -> None:
    """Raises ConfigError unless `keep` is None or at least 1."""
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ConfigError(f"keep is {keep!r}; expected how many versions to keep, at least 1")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock file and holds it; a process that dies lets go of it.

    Raises:
        ExportError: the file system has no locks.
    """
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # ENOLCK, ENOTSUP, ENOSYS
            raise ExportError(
                f"{path}: cannot be locked ({error.strerror}), so two publishers could take one "
                "number; expected a file system with locks"
            ) from error
        yield
