"""Version folders that a server watches, here and on object stores, and TF Serving's configuration.

TF Serving takes any folder with an integer name for a version, complete or not, so nothing
half-written ever has an integer for its name. Here a version is made under a name that is no
integer, on the same file system, synced, and only then renamed; one that goes is renamed before it
is deleted.

On an object store no folder can be renamed, and nothing locked. TF Serving takes any "folder" there
with an integer name for a version as soon as one object is in it; it loads what has a
saved_model.pb, and else tries again. So a version is uploaded under a name that is no integer, read
back and compared, and then moved within the store, object by object: the weights first,
saved_model.pb last. Who sees that sees all of it, as stores show each object at once and whole. A
publisher that dies before leaves a folder without saved_model.pb, which is no version.

Two publishers never take one number there: each writes a claim of its own, lists the folder, and
goes on only if it sees no other claim for that number. The second of two that write sees both
(stores list what was written before: S3 since 2020, Google's, Azure's); if both see both, both try
again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

from google.protobuf import text_format

from keras_unet.disk import locked, rename, sync, sync_folder, write_text
from keras_unet.errors import ConfigError, ExportError, RemoteError
from keras_unet.remote_path import RemotePath, as_path

SAVED_MODEL = "saved_model.pb"
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")  # where TF Serving looks for them
UNFINISHED = ".unfinished-"
REMOVED = ".removed-"
LARGEST = 2**63 - 1  # TF Serving's versions are int64; a name beyond it is none
CLAIM = ".claim-"
_TRIES = 20
_STAMP = "%Y%m%dT%H%M%S"
_LEFT = re.compile(r"\.(?:claim-(?P<number>\d+)|unfinished)-(?P<stamp>\d{8}T\d{6})-[0-9a-f]+")
_ABANDONED = timedelta(days=1)  # no publication takes as long
MODELS_CONFIG = "models.config"
_HEAD = """\
# Which models TF Serving serves (--model_config_file); keras-unet export adds new ones.
# Paths are those that the server sees: absolute, here as in its container image; or gs://, s3://.
"""
_FILES = {
    "batching.config": """\
# How TF Serving joins requests (--enable_batching --batching_parameters_file): on a CPU a batch
# gains little, so few requests wait for each other, and briefly. `serving_default` fails for
# requests that were joined and differ in image size: leave batching off where sizes vary, or send
# encoded images to `segment_bytes`.
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
""",
    "monitoring.config": """\
# Metrics for Prometheus on the REST port (--monitoring_config_file).
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
""",
}


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


def published(folder: Path | RemotePath) -> Mapping[int, Path | RemotePath]:
    """The versions in `folder`, here or on a store, that a server can load; none: no folder."""
    if isinstance(folder, RemotePath):
        return complete(folder)
    return numbered(folder) if folder.is_dir() else {}


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


class Draft(NamedTuple):
    """A version in the making.

    path: local, not there yet. there: the versions that a server can load. place: publishes what is
    at `path`, and gives its place; retire: see `retire`.
    """

    path: Path
    there: Mapping[int, Path | RemotePath]
    place: Callable[[], Path | RemotePath]
    retire: Callable[[int, Collection[int]], list[int]]


@contextlib.contextmanager
def drafted(folder: Path | RemotePath) -> Iterator[Draft]:
    """The next version of `folder`; nobody else makes one of its number meanwhile.

    Raises:
        ExportError, RemoteError: see `unfinished` and `claimed`.
    """
    if isinstance(folder, RemotePath):
        with claimed(folder) as number, tempfile.TemporaryDirectory() as work:
            path = Path(work, "version")
            yield Draft(
                path,
                complete(folder),
                partial(upload, path, folder, number),
                partial(retire_remote, folder),
            )
    else:
        with unfinished(folder) as path:
            yield Draft(path, numbered(folder), partial(place, path), partial(retire, folder))


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
    with _lock(folder):
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
    rename(beside, version)
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
                rename(path, away)
                shutil.rmtree(away, ignore_errors=True)  # the next publisher clears what stays
    return gone


def check_keep(keep: int | None) -> None:
    """Raises ConfigError unless `keep` is None or at least 1."""
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ConfigError(f"keep is {keep!r}; expected how many versions to keep, at least 1")


def _lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Waits until no other publisher is at work in the folder."""
    return locked(
        folder,
        without_locks=lambda error: ExportError(  # ENOLCK, ENOTSUP, ENOSYS
            f"{folder / '.lock'}: cannot be locked ({error.strerror}), so two publishers could "
            "take one number; expected a file system with locks"
        ),
    )


def complete(folder: RemotePath) -> dict[int, RemotePath]:
    """The versions in `folder` that a server can load, each with its own folder."""
    if not folder.is_dir():
        return {}
    return {n: path for n, path in numbered(folder).items() if (path / SAVED_MODEL).is_file()}


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
        files = sorted(aside.files(), key=lambda name: (name == SAVED_MODEL, name))
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


def retire_remote(folder: RemotePath, keep: int, pinned: Collection[int] = ()) -> list[int]:
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
    (version / SAVED_MODEL).delete()
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


def write_configs(
    root: str | Path | RemotePath, base: str | None = None
) -> list[Path | RemotePath]:
    """Writes what is missing of the three files into `root`; `models.config` lists its models.

    Args:
        root: holds a folder for each model, which holds its versions.
        base: where the server sees `root`; None: as the models that are listed, or /models (a
            remote one: where it is).

    Returns:
        The files written or changed.

    Raises:
        ExportError: `models.config` cannot be parsed.
    """
    root = as_path(root)
    written = []
    with _lock(root) if isinstance(root, Path) else contextlib.nullcontext():
        for name, text in _FILES.items():
            if not (root / name).exists():
                _write_config(root / name, text)
                written.append(root / name)
        written += _add_models(root, base)
    return written


def add_to_root(folder: Path | RemotePath) -> None:
    """Adds the model in `folder` to the `models.config` above, where there are such files."""
    root = folder.resolve().parent
    if any((root / name).exists() for name in (MODELS_CONFIG, *_FILES)):
        write_configs(root)


def pinned_versions(folder: Path | RemotePath) -> set[int]:
    """The versions that the `models.config` above names, by a policy or a label."""
    path = folder.resolve().parent / MODELS_CONFIG
    if not path.exists():
        return set()
    found = set()
    for config in _read_config(path).model_config_list.config:
        if PurePosixPath(config.base_path).name == folder.resolve().name:
            found |= set(config.model_version_policy.specific.versions)
            found |= set(config.version_labels.values())
    return found


def _add_models(root: Path | RemotePath, base: str | None) -> list[Path | RemotePath]:
    path = root / MODELS_CONFIG
    config = _read_config(path)
    listed = config.model_config_list.config
    known = {PurePosixPath(entry.base_path).name: entry.base_path for entry in listed}
    if base is None:
        own = [place for name, place in known.items() if name and (root / name).is_dir()]
        like = next(iter([*own, *known.values()]), None)
        default = "/models" if isinstance(root, Path) else str(root)
        base = default if like is None else _above(like)
    new = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in known and entry.is_dir() and numbered(entry)
    )
    if not new and path.exists():
        return []
    for name in new:
        listed.add(name=name, base_path=f"{base}/{name}", model_platform="tensorflow")
    head = "".join(line for line in _lines(path) if line.startswith("#")) or _HEAD
    config.model_config_list.SetInParent()
    _write_config(path, head + text_format.MessageToString(config))
    return [path]


def _above(base_path: str) -> str:
    """Its parent, as it is written: pathlib would make s3:/bucket of s3://bucket."""
    above, slash, _ = base_path.rstrip("/").rpartition("/")
    return above if slash else "."


def _write_config(path: Path | RemotePath, text: str) -> None:
    if isinstance(path, Path):
        write_text(path, text)
    else:
        path.write_text(text)


def _lines(path: Path | RemotePath) -> list[str]:
    return path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []


def _read_config(path: Path | RemotePath) -> Any:
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    try:
        return text_format.Parse("".join(_lines(path)), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path}: is no model configuration of TF Serving ({error}); mend or delete it"
        ) from error
