"""Disk: files and folders written whole or not at all, locks between processes, text read.

What is written by `replacing` outlasts a power failure: it is on the disk before it bears its name.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keras_unet.errors import ConfigError

# of 32 bits first: the mark of 16 bits is their beginning
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file, or make a folder, that takes the place of `path` as the block ends.

    That is a hidden name beside `path`, with the same suffix. At the end what lies there is synced
    and renamed, over an older file too. A folder replaces none but an empty one: where another
    process made `path` meanwhile, OSError is raised. A block that raises leaves `path` as it was.

    >>> with replacing(Path("scores.csv")) as beside:
    ...     beside.write_text("image,dice\\n")
    """
    beside = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield beside
        (sync if beside.is_dir() else sync_file)(beside)
        rename(beside, path)
    finally:
        with suppress(OSError):  # on a network's file system, and it would hide the first error
            remove(beside)


def write_text(path: Path, text: str) -> Path:
    """Writes a text file in UTF-8, whole or not at all; see `replacing`."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="")
    return path


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rename(beside: Path, path: Path) -> None:
    """Renames a file or a folder, and waits until its new name is on the disk."""
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


@contextmanager
def locked(
    folder: Path,
    *,
    busy: Callable[[str], Exception] | None = None,
    without_locks: Callable[[OSError], Exception] | None = None,
    name: str = ".lock",
) -> Iterator[None]:
    """Keeps other processes out of a folder while the block runs; one that dies lets go of it.

    Args:
        folder: that is there; its file `name` is the lock, and stays.
        busy: the error to raise where another process holds it, made of that process's name; None
            waits instead.
        without_locks: the error to raise where the file system has no locks, as some over a network
            have none; None goes on, and keeps nothing out.
    """
    with (folder / name).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError as error:
            if busy and error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                raise busy(file.read().strip() or "another process") from None
            if without_locks:
                raise without_locks(error) from error
        with suppress(OSError):  # it is locked; only its name is missing where the disk is full
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()}".encode())
        yield


def shown_size(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def read_text(path: str | Path) -> str:
    """The text of a file that a person wrote: UTF-8, with a byte-order mark or without.

    Lines end in LF, whatever ends them in the file: CR LF, CR or LF.

    Raises:
        ConfigError: another encoding, which PowerShell's `>` and some editors write; names it.
        OSError: the file cannot be read.
    """
    data = Path(path).read_bytes()
    wide = next((mark for mark in _WIDE if data.startswith(mark)), None)
    try:
        if wide is None and 0 not in data:
            return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        found = f"UTF-{8 * len(wide)}" if wide else "no text, or UTF-16 without a mark (zero bytes)"
    except UnicodeDecodeError as error:
        found = f"no UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"
    raise ConfigError(
        f"{path}: is {found}; expected text in UTF-8: save it so in an editor (PowerShell: "
        "... | Out-File -Encoding utf8 FILE, instead of > FILE)"
    )
