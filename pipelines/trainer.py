"""`run_fn` of TFX's Trainer: the library's `train` on the pipeline's records.

    tfx.components.Trainer(run_fn="pipelines.trainer.run_fn", custom_config=trainer_config(…), …)

A Trainer that was killed goes on where it was when it runs again: its run folder is at a place that
depends on what is trained, not on TFX's execution, and the library resumes from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_unet import run_layout
from keras_unet.data import Normalization
from keras_unet.errors import ConfigError
from keras_unet.settings import merged, nested, to_tree
from keras_unet.training import TrainConfig, make_config

CODE = "code.json"  # of a run: which code it was begun with
FORGET_DAYS = 30.0  # a killed run that nobody went on with
_OF_THE_PIPELINE = ("images", "labels", "validation", "validation_labels", "held_out", "groups")
_OPTIONS = ("train", "name", "runs", "export")


def trainer_config(
    train: Mapping[str, Any],
    *,
    name: str,
    runs: str,
    export: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The Trainer's `custom_config`.

    Args:
        train: settings of `keras-unet train`, without the places of its data.
        name: of the model, as it will be served: saved_models/<name>.
        runs: folder of runs that are not finished, e.g. <pipeline root>/trainer.
        export: `precision`, `tile`, `max_pixels`, `fields` of `write_bundle`.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    given = [key for key in _OF_THE_PIPELINE if key in train.get("data", {})]
    if given:
        raise ConfigError(f"train.data.{given[0]}: the pipeline's own records are trained on")
    make_config(merged(train, {"data": {"images": "records"}}), "train")
    return {"train": dict(train), "name": name, "runs": runs, "export": dict(export or {})}


def run_fn(fn_args: Any) -> None:
    """Trains, and writes the model's two forms and the run's files to TFX's folders.

    Format-Serving: what `publish_bundle` publishes. Format-Keras: `best.keras`. The ModelRun
    artifact: settings, history, TensorBoard's logs, scores, overlays, and `code.json`.

    Args:
        fn_args: TFX's FnArgs. `custom_config` is a `trainer_config`; `hyperparameters` the
            Tuner's; `train_args.num_steps`, if given, are `steps`.

    Raises:
        ConfigError: the settings do not fit, or another process trains the same.
        DataError, TrainingError: see `keras_unet.train`. ExportError: see `write_bundle`.
    """
    from keras_unet import train
    from keras_unet.serving import CardFields, write_bundle
    from pipelines import models

    options = fn_args.custom_config or {}
    if set(options) != set(_OPTIONS):
        raise ConfigError(
            f"Trainer: custom_config has {sorted(options)}; expected {sorted(_OPTIONS)}, of "
            "pipelines.trainer.trainer_config"
        )
    runs = local_runs(options["runs"])
    config = run_config(
        merged(options["train"], hyperparameters(fn_args.hyperparameters)),
        fn_args.train_files,
        fn_args.eval_files,
        transform_graph=fn_args.transform_graph_path,
        steps=fn_args.train_steps,
        name=options["name"],
        runs=runs,
    )
    assert config.name is not None
    folder = runs / config.name
    forget(runs, besides=folder)
    if (folder / run_layout.RECORD).is_file():
        result = train(resume=folder)
    else:
        result = train(config, files={CODE: _json(code())})
    if result.interrupted:  # Ctrl-C ends the pipeline's run; the next one goes on with the training
        raise KeyboardInterrupt
    export = dict(options["export"])
    fields = CardFields.model_validate(export.pop("fields", {}))
    with models.local_output(fn_args.serving_model_dir) as place:
        write_bundle(result.model, place, name=options["name"], fields=fields, **export)
    uri = fn_args.serving_model_dir.rstrip("/").rpartition("/")[0]
    with models.local_output(f"{uri}/{models.KERAS}") as place:
        shutil.copyfile(folder / run_layout.BEST, place / models.FILE)
    with models.local_output(fn_args.model_run_dir) as place:
        shutil.copytree(folder, place, dirs_exist_ok=True, ignore=_not_kept)
        (place / CODE).write_text(_json(_codes(folder)), encoding="utf-8")
    shutil.rmtree(folder)


def run_config(
    train: Mapping[str, Any],
    train_files: Sequence[str],
    eval_files: Sequence[str],
    *,
    transform_graph: str | None,
    steps: int | None,
    name: str,
    runs: Path,
) -> TrainConfig:
    """The whole configuration; its `name` depends on it and on the records, on nothing else.

    Raises:
        ConfigError: a setting is unknown or out of range, or there is more than one pattern.
    """
    places = {"images": _single(train_files, "train"), "validation": _single(eval_files, "eval")}
    settings: dict[str, Any] = {"data": {**places}, "output": str(runs)}
    if steps is not None:
        settings["steps"] = steps
    if transform_graph is not None:
        from pipelines.checks.preprocessing import fitted_normalization

        fitted: Normalization = fitted_normalization(transform_graph)
        settings["data"]["normalization"] = fitted.model_dump(exclude_none=True)
    tree = merged(train, settings)
    key = {**to_tree(make_config(tree, "train")), "records": [_listed(p) for p in places.values()]}
    del key["output"]  # the same run where the root was moved
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return make_config(merged(tree, {"name": f"{name}-{digest}"}), "train")


def hyperparameters(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """The Tuner's best values as settings: {"loss.w0": 5} -> {"loss": {"w0": 5}}."""
    return nested((found or {}).get("values") or {})


def local_runs(place: str) -> Path:
    """The folder of unfinished runs; of a remote root a temporary one, from which none goes on."""
    return Path(tempfile.gettempdir(), place.partition("://")[2]) if "://" in place else Path(place)


def forget(runs: Path, besides: Path, record: str = run_layout.RECORD) -> None:
    """Deletes runs that were killed long ago and are not gone on with."""
    from keras_unet.training import locked_run

    for found in runs.glob(f"*/{record}"):
        folder = found.parent
        newest = max(path.stat().st_mtime for path in folder.iterdir())
        if folder != besides and time.time() - newest > FORGET_DAYS * 86400:
            with locked_run(folder):
                shutil.rmtree(folder)


def _codes(run: Path) -> dict[str, Any]:
    """The code that a run was begun with, and that it was ended with where it is another."""
    kept, now = run / CODE, code()
    begun = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    return begun if begun == now else {**begun, "ended_with": now}


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=1) + "\n"


def code() -> dict[str, str]:
    """Which code trains: versions, and the commit where it is a checkout of git.

    A copy installed into an environment inside of some other checkout has no commit of its own.
    """
    from tfx.version import __version__ as tfx_version

    from keras_unet.models import library_versions

    found = {**library_versions(), "tfx": tfx_version}
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        found["commit"] = _git("rev-parse", "HEAD").strip()
        changes = _git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return found
    if changes:
        digest = hashlib.sha256(changes.encode("utf-8", "surrogateescape")).hexdigest()
        found["changed"] = f"yes: sha256 of git diff HEAD is {digest}"
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=30,
        check=True,
    )
    return done.stdout


def _single(files: Sequence[str], split: str) -> str:
    from pipelines.models import mounted

    if len(files) != 1:
        raise ConfigError(f"Trainer: {len(files)} patterns of {split} records; expected one")
    place = mounted(files[0])
    if "://" in place:
        raise ConfigError(f"Trainer: {place}: cannot be read; expected a folder, or gs:// on /gcs")
    return place


def _listed(pattern: str) -> list[tuple[str, int]]:
    """The files of a pattern and their sizes; TFX never changes an artifact."""
    folder = Path(pattern).parent
    return sorted((str(path), path.stat().st_size) for path in folder.glob(Path(pattern).name))


def _not_kept(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(".") or name == run_layout.BEST}
