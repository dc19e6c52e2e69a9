"""Run folder: made at once, locked while a run is in it, and what a resumed run must match."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from shlex import quote
from typing import Any, Protocol, TypeVar

import numpy as np
import tomli_w
from pydantic import BaseModel, ValidationError
from rich.console import Console

from keras_unet import run_layout
from keras_unet.console import say
from keras_unet.data.samples import Sample
from keras_unet.disk import locked, replacing, write_text
from keras_unet.errors import ConfigError, DataError
from keras_unet.settings import Frozen, flat, read_tree, to_tree
from keras_unet.training.ancestor import Ancestor
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.config import DataConfig, make_config

COMMAND = "keras-unet train"


class RunRecord(Frozen):
    """What a run was begun with, as `run.json` keeps it.

    config: all settings. directory: where relative paths in it start. policy: the layers' dtypes.
    environment: versions and machine, which a bit-identical end needs. training, validation: each
    sample's name and the hash of its pixels and labels. ancestor: the model it began with.
    expected_steps: those that there was to be time for on the machine that began it; None in older
    runs.
    """

    format: int = 1
    config: dict[str, Any]
    directory: str
    policy: str
    environment: dict[str, str]
    training: dict[str, str]
    validation: dict[str, str]
    ancestor: Ancestor | None = None
    finished: bool = False
    expected_steps: int | None = None


class RunSettings(Protocol):
    """What the settings of any kind of run have, as `TrainConfig` and `DiffusionConfig`."""

    @property
    def name(self) -> str | None: ...

    @property
    def output(self) -> Path: ...

    @property
    def data(self) -> DataConfig: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any: ...


Kind = TypeVar("Kind", bound=RunSettings)
Make = Callable[[Mapping[str, Any], str], BaseModel]


def create(
    config: RunSettings, record: RunRecord, files: Mapping[str, str], command: str = COMMAND
) -> Path:
    """Makes the run folder with `config.toml`, `run.json` and other files: all there, or nothing.

    `command` is what begins and resumes such runs.

    Raises:
        ConfigError: a run of this name is there already.
    """
    texts = {
        **files,
        run_layout.CONFIG: tomli_w.dumps(record.config),
        run_layout.RECORD: _text(record),
    }
    return new_folder(config.output / name_of(config), texts, command)


def name_of(config: RunSettings) -> str:
    """The name that was given; else that of the data, which is no pattern of records, and now."""
    parts = reversed(config.data.images.resolve().parts)
    data = next((part for part in parts if not set("*?[/") & set(part)), "records")
    return config.name or f"{data}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(folder: Path, texts: Mapping[str, str], command: str = COMMAND) -> Path:
    """Makes a folder of text files: all there, or nothing.

    Raises:
        ConfigError: it is there already.
    """
    taken = ConfigError(
        f"{folder}: a run of this name is there already; choose another name, or go on with it: "
        f"{how_to_resume(folder, command)}"
    )
    if folder.exists():
        raise taken
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(folder) as beside:
            beside.mkdir()
            for file, text in texts.items():
                (beside / file).write_text(text, encoding="utf-8", newline="")
    except OSError:
        if folder.exists():  # made by another process meanwhile
            raise taken from None
        raise
    return folder


def locked_run(folder: Path, work: str = "training") -> AbstractContextManager[None]:
    """Keeps other processes out of a run folder while the block runs; a killed one lets go.

    Some network file systems have no locks; there, nothing is kept out.

    Raises:
        ConfigError: another process is in it.
    """
    return locked(
        folder, busy=lambda owner: ConfigError(f"{folder}: {owner} is {work} in this folder")
    )


def resumed(
    folder: Path, record: RunRecord, environment: Mapping[str, str], console: Console
) -> Checkpoint | None:
    """The checkpoint to go on from; tells what keeps the end from having the same bits.

    Raises:
        TrainingError: no checkpoint is whole.
    """
    checkpoints = Checkpoints(folder)
    checkpoints.tidy()
    for name, begun in record.environment.items():
        if begun != environment.get(name):
            said = f"{name}: begun with {begun}, now {environment.get(name)}: not the same bits"
            say(said, "yellow", console)
    return checkpoints.read()


def finish(folder: Path, record: RunRecord) -> None:
    """Closes a run: its record says so, and its checkpoints go."""
    write_text(folder / run_layout.RECORD, _text(record.model_copy(update={"finished": True})))
    Checkpoints(folder).remove()


def how_to_resume(folder: Path, command: str = COMMAND) -> str:
    """The command that goes on with a run."""
    return f"{command} --resume {quote(str(folder))}"


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
    folder: Path,
    record: RunRecord,
    config: BaseModel,
    make: Make = make_config,
    instead: str = "",
) -> None:
    """Raises ConfigError if settings differ from those the run was begun with; names each one.

    instead: what else there is to do, for the end of the message.
    """
    begun = dict(flat(to_tree(make(record.config, f"{folder}/{run_layout.RECORD}"))))
    given = dict(flat(to_tree(config)))
    changes = [
        f"{key}: begun with {begun.get(key, 'nothing')}, now {given.get(key, 'nothing')}"
        for key in sorted(begun.keys() | given.keys())
        if begun.get(key) != given.get(key)
    ]
    if changes:
        raise ConfigError(
            f"{folder}: this run was begun with other settings, and goes on only with its own:"
            + "".join(f"\n  {line}" for line in changes)
            + f"\nBegin a new run for new settings{instead}"
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


def rooted(config: Kind, directory: str) -> Kind:
    """The configuration with data and ancestor found from where the run was begun."""
    if Path(directory) == Path.cwd():
        return config
    names = ("images", "labels", "validation", "validation_labels")
    found = {name: getattr(config.data, name) for name in names}
    paths = {name: Path(directory, v) for name, v in found.items() if isinstance(v, Path)}
    changes: dict[str, Any] = {"data": config.data.model_copy(update=paths)}
    init = getattr(config, "init", None)
    if init is not None and Path(directory, init).exists():  # else a name, or gs://…
        changes["init"] = str(Path(directory, init))
    return config.model_copy(update=changes)


def _text(record: RunRecord) -> str:
    return record.model_dump_json(indent=1) + "\n"


def _digest(sample: Sample) -> str:
    found = hashlib.blake2b(digest_size=12)
    for array in (sample.image, sample.classes, sample.instances, sample.missing):
        if array is not None:
            found.update(repr((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
