"""Files that are written whole or not at all, and that outlast a power failure; text read."""

from __future__ import annotations

import codecs
import errno
import os
from pathlib import Path

from keras_unet.errors import ConfigError

# of 32 bits first: the mark of 16 bits is their beginning
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
