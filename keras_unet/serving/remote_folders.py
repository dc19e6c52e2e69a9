"""Version folders on an object store, where no folder can be renamed, and nothing locked.

TF Serving takes any "folder" with an integer name for a version as soon as one object is in it; it
loads what has a saved_model.pb, and else tries again. So a version is uploaded under a name that is
no integer, read back and compared, and then moved within the store, object by object: the weights
first, saved_model.pb last. Who sees that sees all of it, as stores show each object at once and
whole. A publisher that dies before leaves a folder without saved_model.pb, which is no version.

Two publishers never take one number: each writes a claim of its own, lists the folder, and goes on
only if it sees no other claim for that number. The second of two that write sees both (stores list
what was written before: S3 since 2020, Google's, Azure's); if both see both, both try again.
"""

from __future__ import annotations

import contextlib
import random
import re
import secrets
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from keras_unet.errors import ExportError, RemoteError
from keras_unet.remote_path import RemotePath
from keras_unet.serving.folders import UNFINISHED, check_keep, next_number, numbered

MODEL = "saved_model.pb"
CLAIM = ".claim-"
_TRIES = 20
_STAMP = "%Y%m%dT%H%M%S"
_LEFT = re.compile(r"\.(?:claim-(?P<number>\d+)|unfinished)-(?P<stamp>\d{8}T\d{6})-[0-9a-f]+")
_ABANDONED = timedelta(days=1)  # no publication takes as long


def complete(folder: RemotePath) -> dict[int, RemotePath]:
    """The versions in `folder` that a server can load, each with its own folder."""
    if not folder.is_dir():
        return {}
    return {n: path for n, path in numbered(folder).items() if (path / MODEL).is_file()}


def published(folder: Path | RemotePath) -> Mapping[int, Path | RemotePath]:
    """The versions in `folder`, here or elsewhere, that a server can load; none: no such folder."""
    if isinstance(folder, RemotePath):
        return complete(folder)
    return numbered(folder) if folder.is_dir() else {}


@contextlib.contextmanager
def claimed(folder: RemotePath) -> Iterator[int]:
    """The number of the next version, which nobody else takes while the block lasts.

    So whether the store can be written is known before anything is made. What publishers left who
    died more than a day ago is cleared first.

    Raises:
        RemoteError: the store cannot be read or written.
        ExportError: others went on taking the same numbers.
    """
    _clear(folder)
    claim, number = _claim(folder)
    try:
        yield number
    finally:
        with contextlib.suppress(RemoteError):  # it lapses
            claim.delete()


def upload(local: Path, folder: RemotePath, number: int) -> RemotePath:
    """Puts a complete version into `folder` as `number`, which is `claimed`.

    Raises:
        RemoteError: the store fails. ExportError: it gives other bytes than it was given. Nothing
            is published then.
    """
    aside, version = folder / f"{UNFINISHED}{_ticket()}", folder / str(number)
    try:
        aside.put(local)
        _compare(local, aside)
        files = sorted(aside.files(), key=lambda name: (name == MODEL, name))
        for name in files:
            (aside / name).move(version / name)
    except BaseException:
        with contextlib.suppress(RemoteError):
            _delete(version)
        raise
    finally:
        with contextlib.suppress(RemoteError):
            aside.delete()
    return version


def retire(folder: RemotePath, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Deletes all but the newest `keep` versions and the `pinned` ones.

    Returns:
        The versions deleted.
    """
    check_keep(keep)
    there = complete(folder)
    gone = [n for n in sorted(there)[:-keep] if n not in pinned]
    for number in gone:
        _delete(there[number])
    return gone


def _delete(version: RemotePath) -> None:
    """So that no server finds half of it: without saved_model.pb it is no version."""
    (version / MODEL).delete()
    version.delete()


def _claim(folder: RemotePath) -> tuple[RemotePath, int]:
    for attempt in range(_TRIES):
        claims = [found for name in _names(folder) if (found := _LEFT.fullmatch(name))]
        taken = [int(found["number"]) for found in claims if found["number"]]
        there = numbered(folder) if folder.is_dir() else {}
        number = next_number([*there, *taken])
        claim = folder / f"{CLAIM}{number}-{_ticket()}"
        claim.write_text("a publisher is at work; see keras-unet export\n")
        mine = f"{CLAIM}{number}-"
        others = [n for n in _names(folder) if n.startswith(mine) and n != claim.name]
        if not others and number not in numbered(folder):
            return claim, number
        claim.delete()
        time.sleep(random.uniform(0, 0.1 * 2 ** min(attempt, 6)))
    raise ExportError(f"{folder}: others take each number first; expected one publisher at a time")


def _clear(folder: RemotePath) -> None:
    now = datetime.now(timezone.utc)
    for name in _names(folder):
        left = _LEFT.fullmatch(name)
        if left is not None:
            made = datetime.strptime(left["stamp"], _STAMP).replace(tzinfo=timezone.utc)
            if now - made > _ABANDONED:
                (folder / name).delete()


def _names(folder: RemotePath) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _ticket() -> str:
    return f"{datetime.now(timezone.utc).strftime(_STAMP)}-{secrets.token_hex(8)}"


def _compare(local: Path, aside: RemotePath) -> None:
    """Every byte."""
    with tempfile.TemporaryDirectory(prefix="keras-unet-") as work:
        for file in (path for path in local.rglob("*") if path.is_file()):
            name, back = file.relative_to(local), Path(work, "back")
            (aside / name).get(back)
            if back.read_bytes() != file.read_bytes():
                raise ExportError(f"{aside / name}: is not what was uploaded; not published")
