"""A run's folder: made at once, locked while a run is in it, and what a resumed run must match."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import tomli_w
from pydantic import ValidationError

from keras_unet import run_layout
from keras_unet.data.samples import Sample
from keras_unet.disk import sync_folder, write_text
from keras_unet.errors import ConfigError, DataError
from keras_unet.settings import Frozen, read_tree, to_tree
from keras_unet.training.config import make_config

COMMAND = "keras-unet train"
Settings = Any  # of a kind of run: TrainConfig, or one with its fields name, output and data
Make = Callable[[Mapping[str, Any], str], Settings]


class RunRecord(Frozen):
    """What a run was begun with, as `run.json` keeps it.

    config: all settings. directory: where relative paths in it start. policy: the layers' dtypes.
    environment: versions and machine, which a bit-identical end needs. training, validation: each
    sample's name and the hash of its pixels and labels.
    """

    format: int = 1
    config: dict[str, Any]
    directory: str
    policy: str
    environment: dict[str, str]
    training: dict[str, str]
    validation: dict[str, str]
    finished: bool = False


class RunLock(AbstractContextManager["RunLock"]):
    """Keeps other processes out of a run folder for as long as this one lives, even if killed.

    Some network file systems have no locks; there, nothing is kept out.
    """

    def __init__(self, folder: Path, work: str = "training") -> None:
        self._file = (folder / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks: nothing can be kept out there
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise ConfigError(f"{folder}: {owner} is {work} in this folder") from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


def create(
    config: Settings, record: RunRecord, files: Mapping[str, str], command: str = COMMAND
) -> Path:
    """Makes the run folder with `config.toml`, `run.json` and other files: all there, or nothing.

    `config` has the fields `name`, `output` and `data` of a `TrainConfig`; `command` is what begins
    and resumes such runs.

    Raises:
        ConfigError: a run of this name is there already.
    """
    name = config.name or f"{_data_name(config)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = config.output / name
    taken = ConfigError(
        f"{folder}: a run of this name is there already; choose another name, or go on with it: "
        f"{how_to_resume(folder, command)}"
    )
    if folder.exists():
        raise taken
    beside = folder.with_name(f".{name}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write_text(beside / run_layout.CONFIG, tomli_w.dumps(to_tree(config)))
        for file, text in files.items():
            write_text(beside / file, text)
        write_record(beside, record)
        try:
            beside.rename(folder)
        except OSError:
            if folder.exists():
                raise taken from None
            raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def how_to_resume(folder: Path, command: str = COMMAND) -> str:
    """The command that goes on with a run."""
    return f"{command} --resume {quote(str(folder))}"


def write_record(folder: Path, record: RunRecord) -> None:
    write_text(folder / run_layout.RECORD, record.model_dump_json(indent=1) + "\n")


def read_record(folder: Path, make: Make = make_config) -> RunRecord:
    """The record of a run; `make` validates the settings of its kind.

    Raises:
        ConfigError: this is no run folder, or its `config.toml` was changed; names each setting.
    """
    file = folder / run_layout.RECORD
    if not file.is_file():
        raise ConfigError(
            f"{folder}: no run to resume here; expected a run folder with {run_layout.RECORD}"
        )
    try:
        record = RunRecord.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{file}: not written by this version ({error})") from error
    if (folder / run_layout.CONFIG).is_file():
        given = make(read_tree(folder / run_layout.CONFIG), str(folder / run_layout.CONFIG))
        require_same_config(folder, record, given, make)
    return record


def require_same_config(
    folder: Path, record: RunRecord, config: Settings, make: Make = make_config
) -> None:
    """Raises ConfigError if settings differ from those the run was begun with; names each one."""
    begun = _flat(to_tree(make(record.config, f"{folder}/{run_layout.RECORD}")))
    given = _flat(to_tree(config))
    changes = [
        f"{key}: begun with {begun.get(key, 'nothing')}, now {given.get(key, 'nothing')}"
        for key in sorted(begun.keys() | given.keys())
        if begun.get(key) != given.get(key)
    ]
    if changes:
        raise ConfigError(
            f"{folder}: this run was begun with other settings, and goes on only with its own:"
            + "".join(f"\n  {line}" for line in changes)
            + "\nBegin a new run for new settings"
        )


def require_same_data(
    folder: Path, record: RunRecord, training: Mapping[str, str], validation: Mapping[str, str]
) -> None:
    """Raises DataError if images or labels changed since the run was begun; names each one."""
    changes = []
    parts = (("training", record.training, training), ("validation", record.validation, validation))
    for part, begun, now in parts:
        changes += [f"{part} image {name} is gone" for name in begun.keys() - now.keys()]
        changes += [f"{part} image {name} is new" for name in now.keys() - begun.keys()]
        changes += [
            f"{part} image {name}: other pixels or labels"
            for name in begun.keys() & now.keys()
            if begun[name] != now[name]
        ]
    if changes:
        raise DataError(
            f"{folder}: the data set changed since this run was begun, so it cannot go on:"
            + "".join(f"\n  {line}" for line in sorted(changes)[:20])
            + (f"\n  … ({len(changes)} in all)" if len(changes) > 20 else "")
        )


def digests(samples: Iterable[Sample]) -> dict[str, str]:
    """A hash of each sample's pixels and labels, by its name, in order."""
    return {sample.name: _digest(sample) for sample in samples}


def rooted(config: Settings, directory: str) -> Settings:
    """The configuration with its data found from where the run was begun."""
    if Path(directory) == Path.cwd():
        return config
    names = ("images", "labels", "validation", "validation_labels")
    found = {name: getattr(config.data, name) for name in names}
    paths = {name: Path(directory, v) for name, v in found.items() if isinstance(v, Path)}
    return config.model_copy(update={"data": config.data.model_copy(update=paths)})


def _data_name(config: Settings) -> str:
    """The last part of the data's path that is no pattern of records."""
    parts = config.data.images.resolve().parts
    return next((part for part in reversed(parts) if not set("*?[/") & set(part)), "records")


def _digest(sample: Sample) -> str:
    found = hashlib.blake2b(digest_size=12)
    for array in (sample.image, sample.classes, sample.instances, sample.missing):
        if array is not None:
            found.update(repr((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat
