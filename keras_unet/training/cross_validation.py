"""Cross-validation: a run for each fold of a data set, and one report on all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from keras_unet import run_layout
from keras_unet.console import console_of, say
from keras_unet.data.check import Loaded, load_samples
from keras_unet.data.samples import Sample
from keras_unet.disk import write_text
from keras_unet.errors import ConfigError
from keras_unet.evaluation.counts import add, score
from keras_unet.evaluation.evaluation import Evaluation, counts_as_arrays, flat, nested, plain
from keras_unet.keras_backend import require_tensorflow
from keras_unet.settings import Frozen, to_tree
from keras_unet.training import run_folder
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.distributed.cluster import Cluster, join
from keras_unet.training.run import train
from keras_unet.training.splits import classes_of, lone_holder, make_folds


class Splits(Frozen):
    """What a cross-validation was begun with, as `splits.json` keeps it.

    config: all settings. directory: where relative paths in it start. folds: the names of the
    images that each fold holds out.
    """

    format: int = 1
    config: dict[str, Any]
    directory: str
    folds: tuple[tuple[str, ...], ...]


class CrossValidation(NamedTuple):
    """Where the folds are, their evaluations, and the report on them; None if interrupted."""

    folder: Path
    folds: tuple[Evaluation, ...]
    report: dict[str, Any] | None


def cross_validate(
    config: TrainConfig | Mapping[str, Any] | None = None,
    folds: int = 5,
    console: Console | None = None,
    *,
    resume: str | Path | None = None,
    files: Mapping[str, str] | None = None,
    loaded: Loaded | None = None,
    verbose: int = 1,
) -> CrossValidation:
    """Trains once for each fold, scored on the images that the fold holds out.

    Each image is held out once; which, is told by `splits.json` and by `data.held_out` of each
    fold's own `config.toml`. `RUN/fold_0` … are run folders like any other; predicting with RUN
    averages them. `RUN/cross_validation.json` has each score's mean and standard deviation over the
    folds, and the scores over all images pooled, each predicted by the fold that had not seen it.
    As in every run, the best model of a fold was chosen by the images that it is scored on.

    Args:
        config: a `TrainConfig`, or a mapping that makes one; its `minutes` or `steps` are those of
            each fold. With `resume`: None.
        folds: how many, 2 or more.
        console: where progress goes; None prints to the terminal.
        verbose: 0 prints nothing.
        resume: the folder of a cross-validation to go on with: finished folds are read, one that
            was stopped goes on, the others begin. Each of several machines must reach it.
        files: more files for the folder: text by name.
        loaded: what is in `data.images`, where that was read already, as in a plan.

    Raises:
        ConfigError: a setting does not fit; too few images or groups; a fold lacks a class.
        DataError: images or labels cannot be used.
    """
    require_tensorflow("cross_validate")
    console = console_of(console, verbose)
    if config is None and resume is None:
        raise ConfigError("cross_validate: expected a configuration, or a folder to resume")
    if config is not None and not isinstance(config, TrainConfig):
        config = make_config(config)
    splits = None if resume is None else read_splits(Path(resume))
    begun = (
        config if splits is None else make_config(splits.config, f"{resume}/{run_layout.SPLITS}")
    )
    assert begun is not None
    source = begun if splits is None else run_folder.rooted(begun, splits.directory)
    cluster = join(begun.devices)
    if not cluster.chief:
        return _work(cluster, source, loaded)
    if resume is None:
        _require_no_validation(begun)
        loaded = loaded or _load(source)
        folder = _begin(begun, folds, files or {}, loaded)
    else:
        folder = Path(resume)
    splits = splits or read_splits(folder)
    to_go_on = f"Stopped. To go on: {run_folder.how_to_resume(folder)}"
    unfinished = not all(map(_finished, _fold_folders(folder, splits)))
    cluster.broadcast(json.dumps([str(folder), len(splits.folds), unfinished]).encode())
    found: list[Evaluation] = []
    for number, held_out in enumerate(splits.folds):
        console.print(f"{run_layout.fold(number)} of {len(splits.folds)} folds", style="bold")
        where = folder / run_layout.fold(number)
        try:
            if loaded is None and not _finished(where):
                loaded = _load(source)  # once for all folds
            if (where / run_layout.RECORD).is_file():
                result = train(console=console, resume=where, loaded=loaded)
            else:
                fold = run_folder.rooted(_fold(begun, folder, number, held_out), splits.directory)
                result = train(fold, console, loaded=loaded)
        except SystemExit:  # SIGTERM; what the fold said goes on with the fold alone
            say(to_go_on, console=console)
            raise
        if result.interrupted:
            say(to_go_on, console=console)
            return CrossValidation(folder, tuple(found), None)
        found.append(result.evaluation)
    report = summary(found)
    write_text(folder / run_layout.CROSS_VALIDATION, json.dumps(report, indent=1) + "\n")
    return CrossValidation(folder, tuple(found), report)


def _load(config: TrainConfig) -> Loaded:
    data = config.data
    return load_samples(data.images, data.labels, data.rule, need_labels=True)


def _fold_folders(folder: Path, splits: Splits) -> list[Path]:
    return [folder / run_layout.fold(number) for number in range(len(splits.folds))]


def _finished(run: Path) -> bool:
    return (run / run_layout.RECORD).is_file() and run_folder.read_record(run).finished


def _work(cluster: Cluster, source: TrainConfig, loaded: Loaded | None) -> CrossValidation:
    """What a machine that is not the chief does: its part of each fold's training."""
    folder, folds, unfinished = json.loads(cluster.broadcast())
    if unfinished and loaded is None:
        loaded = _load(source)  # once for all folds
    found: list[Evaluation] = []
    for _ in range(folds):
        result = train(resume=folder, loaded=loaded)  # the chief tells what
        if result.interrupted:
            return CrossValidation(Path(folder), tuple(found), None)
        found.append(result.evaluation)
    return CrossValidation(Path(folder), tuple(found), summary(found))


def read_splits(folder: Path) -> Splits:
    """The record of a cross-validation.

    Raises:
        ConfigError: this is no folder of one.
    """
    file = folder / run_layout.SPLITS
    try:
        return Splits.model_validate_json(file.read_bytes())
    except OSError:
        raise ConfigError(
            f"{folder}: no cross-validation here; expected a folder with {run_layout.SPLITS}"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{file}: not written by this version ({error})") from error


def summary(found: Sequence[Evaluation]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and pooled scores of folds; see `cross_validate`."""
    totals = [flat(one.total) for one in found]
    means: dict[tuple[str, ...], Any] = {}
    deviations: dict[tuple[str, ...], Any] = {}
    for path in totals[0]:
        values = [total.get(path) for total in totals]
        known = [v for v in values if isinstance(v, (int, float))]
        means[path] = float(np.mean(known)) if known else None
        deviations[path] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    every = [counts for one in found for counts in one.counts.values()]
    shared = set.intersection(*(set(counts) for counts in every))  # older folds may have fewer
    pooled: dict[str, np.ndarray] = {}
    for counts in every:
        pooled = add(pooled, counts_as_arrays({name: counts[name] for name in shared}))
    return {
        "folds": len(found),
        "images": sum(len(one.images) for one in found),
        "mean": plain(nested(means)),
        "std": plain(nested(deviations)),
        "pooled": plain(score(pooled, found[0].classes)),
        "each": [one.total for one in found],
    }


def _require_no_validation(config: TrainConfig) -> None:
    if isinstance(config.data.validation, Path) or config.data.held_out is not None:
        raise ConfigError(
            "a cross-validation holds out images itself: leave out data.validation and "
            "data.held_out"
        )


def _begin(config: TrainConfig, folds: int, files: Mapping[str, str], loaded: Loaded) -> Path:
    """Makes the folder with the splits in it."""
    data, (samples, report) = config.data, loaded
    names = [s.name for s in samples]
    held = tuple(map(tuple, make_folds(names, folds, config.seed, data.groups)))
    assert report.mapping is not None  # there are labels
    _require_all_classes(samples, held, report.mapping.values)
    name = run_folder.name_of(config)
    splits = Splits(config=to_tree(config), directory=str(Path.cwd()), folds=held)
    texts = {**files, run_layout.SPLITS: splits.model_dump_json(indent=1) + "\n"}
    return run_folder.new_folder(config.output / name, texts)


def _fold(config: TrainConfig, folder: Path, number: int, held_out: Sequence[str]) -> TrainConfig:
    data = config.data.model_copy(update={"held_out": tuple(held_out), "groups": None})
    changes = {"data": data, "output": folder, "name": run_layout.fold(number)}
    return config.model_copy(update=changes)


def _require_all_classes(
    samples: Sequence[Sample], held: Sequence[Sequence[str]], values: Sequence[int]
) -> None:
    present = {s.name: classes_of([s]) for s in samples}
    every = set().union(*present.values())
    for number, names in enumerate(held):
        absent = every - set().union(*(present[name] for name in names))
        if absent:
            holders = min(sum(k in held for held in present.values()) for k in absent)
            help_ = (
                f"take fewer folds, another seed, or data.groups ({holders} images hold it)"
                if holders > 1
                else lone_holder(absent, samples, values)
            )
            raise ConfigError(
                f"the {len(names)} images that fold {number} holds out have no pixel of class "
                f"{sorted(absent)}: {help_}"
            )
