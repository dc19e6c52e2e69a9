"""`train`: from a folder of images and labels to a trained model, its scores and its pictures."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
from rich.console import Console

from keras_unet.errors import ConfigError, TrainingError
from keras_unet.evaluation import pictures
from keras_unet.evaluation.record import Evaluation, read_evaluation
from keras_unet.evaluation.scoring import evaluate_samples
from keras_unet.models.bundle import TrainedModel, load_model, save_model
from keras_unet.models.precision import dtype_policy
from keras_unet.training import callbacks as own
from keras_unet.training import run_folder, setup
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.config import TrainConfig, make_config, to_tree
from keras_unet.training.interruption import Interrupted, StopRequest
from keras_unet.training.logs import History
from keras_unet.training.loop import Position, restore, run_loop, snapshot
from keras_unet.training.prepare import Prepared, environment, prepare
from keras_unet.training.progress import ShowProgress
from keras_unet.training.watch import StopWhereNotFinite


class TrainResult(NamedTuple):
    """Where the run is, its best model, and that model's scores on the validation images."""

    folder: Path
    model: TrainedModel
    evaluation: Evaluation
    interrupted: bool


def train(
    config: TrainConfig | Mapping[str, object] | None = None,
    console: Console | None = None,
    *,
    resume: str | Path | None = None,
    files: Mapping[str, str] | None = None,
) -> TrainResult:
    """Trains a U-Net with the paper's weighted cross-entropy, or goes on with a run.

    The run folder holds `config.toml`, `data.json` (the data check), `run.json` (what a resumed run
    must match), `checkpoints/`, `history.csv`, `tensorboard/`, `best.keras`, and at its end
    `last.keras`, `curves.png`, `evaluation.json` and `overlays/`, without the checkpoints.

    A run that was killed, at any moment, ends after `resume` as it would have without: a run that
    `steps` bounds with the same bits on the same machine. Where `minutes` bound it, the time up to
    the last checkpoint counts, and the learning rate follows the clock.

    Ctrl-C ends a run after its step with a checkpoint and a usable, scored model; SIGTERM with a
    checkpoint and exit code 143.

    Args:
        config: a `TrainConfig`, or a mapping that makes one. With `resume`: None, or the same.
        console: where progress goes; None prints to the terminal.
        resume: the folder of a run to go on with. A finished one is only read.
        files: more files for the folder of a new run, such as its plan: text by name.

    Raises:
        ConfigError: a setting does not fit, or does not fit the data, or is not the resumed run's.
        DataError: images or labels cannot be used; names every bad file. Nothing is written then.
            Or they are not the resumed run's.
        TrainingError: a number stopped being finite, a disk is full, no checkpoint is whole.
    """
    if config is None and resume is None:
        raise ConfigError("train: expected a configuration, or a run to resume")
    if config is not None and not isinstance(config, TrainConfig):
        config = make_config(config)
    console = console or Console(highlight=False)
    if resume is not None:
        return _resume(Path(resume), config, console)
    assert config is not None
    policy, why = dtype_policy(config.precision)
    console.print(f"Layers compute in {policy} ({why})")
    prepared = prepare(config, config, policy, _cache(config.output), console)
    record = run_folder.RunRecord(
        config=to_tree(config),
        directory=str(Path.cwd()),
        policy=policy,
        environment=environment(),
        training=prepared.digests[0],
        validation=prepared.digests[1],
    )
    folder = run_folder.create(
        config, record, {**(files or {}), "data.json": prepared.report.to_json() + "\n"}
    )
    with run_folder.RunLock(folder):
        return _run(folder, config, record, prepared, None, console)


def _resume(folder: Path, config: TrainConfig | None, console: Console) -> TrainResult:
    record = run_folder.read_record(folder)
    if config is not None:
        run_folder.require_same_config(folder, record, config)
    if record.finished:
        console.print(f"{folder}: this run is finished", markup=False, soft_wrap=True)
        Checkpoints(folder).remove()  # a killed process may have left some
        return TrainResult(folder, load_model(folder), read_evaluation(folder), False)
    config = make_config(record.config)
    with run_folder.RunLock(folder):
        checkpoints = Checkpoints(folder)
        checkpoints.tidy()
        checkpoint = checkpoints.read()
        now = environment()
        for name, begun in record.environment.items():
            if begun != now.get(name):
                said = f"{name}: begun with {begun}, now {now.get(name)}: not the same bits"
                console.print(said, style="yellow", markup=False)
        source = run_folder.rooted(config, record.directory)
        prepared = prepare(config, source, record.policy, _cache(folder.parent), console)
        run_folder.require_same_data(folder, record, *prepared.digests)
        return _run(folder, config, record, prepared, checkpoint, console)


def _run(
    folder: Path,
    config: TrainConfig,
    record: run_folder.RunRecord,
    prepared: Prepared,
    checkpoint: Checkpoint | None,
    console: Console,
) -> TrainResult:
    """Trains, evaluates the best model and closes the run."""
    try:
        interrupted = _fit(folder, config, prepared, checkpoint, console)
        model = load_model(folder)
        evaluation = evaluate_samples(model, prepared.validation, output=folder)
        pictures.curves(folder / "history.csv", folder / "curves.png")
        if not interrupted:
            run_folder.write_record(folder, record.model_copy(update={"finished": True}))
            Checkpoints(folder).remove()
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written ({error}). Its checkpoints stay; when there is room, go "
            f"on: {run_folder.how_to_resume(folder)}"
        ) from error
    return TrainResult(folder, model, evaluation, interrupted)


def _fit(
    folder: Path,
    config: TrainConfig,
    prepared: Prepared,
    checkpoint: Checkpoint | None,
    console: Console,
) -> bool:
    """The steps; True if Ctrl-C ended them before their time."""
    model, checkpoints = prepared.model, Checkpoints(folder)
    average = setup.weight_average(config, model, prepared.network)

    def bundle(metrics: dict[str, float]) -> TrainedModel:
        network = prepared.network if average is None else average.network()
        return TrainedModel(network, prepared.card(folder.name, metrics))

    stop = StopRequest()
    budget = own.Budget(
        config.learning_rate, config.steps, config.time_limit, config.schedule, config.warmup_steps
    )
    card, monitor = prepared.card(folder.name, {}), f"val_{config.monitor}"
    history, progress = History(folder), ShowProgress(budget, console)
    callbacks: list[keras.callbacks.Callback] = [
        budget,
        *([] if average is None else [average]),
        StopWhereNotFinite(
            prepared.names, lambda: budget.done, config.accumulate, lambda: _kept(checkpoints)
        ),
        own.Validation(
            prepared.validation,
            bundle,
            card.normalization,
            len(card.classes),
            card.separation,
            stop.check,
        ),
        own.KeepBest(folder, monitor, bundle),
        history,
        progress,
        *([own.Patience(monitor, config.patience)] if config.patience else []),
    ]
    position = Position()
    if checkpoint is not None:
        position = restore(model, callbacks, checkpoint.arrays, checkpoint.state)
        checkpoints.good = [checkpoint.path]
        console.print(f"Going on at step {budget.done}")

    def write() -> None:
        since = time.monotonic()
        checkpoints.write(budget.done, *snapshot(model, position, callbacks), since=since)

    def at_rest() -> None:
        stop.check()
        over = position.step == 0 and model.stop_training
        if over or checkpoints.due(0.0 if position.step == 0 else 60 * config.checkpoint_minutes):
            write()

    number: int | None = None
    with stop:
        try:
            run_loop(
                model,
                iter(prepared.data(budget.done)),
                callbacks,
                steps_per_epoch=config.steps_per_epoch,
                position=position,
                at_rest=at_rest,
            )
        except Interrupted as asked:
            number = asked.number
            write()
        finally:
            progress.close()
            history.close()
        _keep(folder, bundle, budget.done)
    if number is not None:
        name = signal.Signals(number).name
        command = run_folder.how_to_resume(folder)
        said = f"Stopped at step {budget.done} ({name}); to go on: {command}"
        console.print(said, markup=False, soft_wrap=True)
    if number == signal.SIGTERM:  # the machine is about to go
        raise SystemExit(128 + number)
    return number is not None


def _keep(folder: Path, bundle: Callable[[dict[str, float]], TrainedModel], done: int) -> None:
    """Writes `last.keras`, and `best.keras` where no epoch was finished."""
    model = bundle({"step": float(done)})
    save_model(model, folder / "last.keras")
    if not (folder / "best.keras").is_file():
        save_model(model, folder / "best.keras")


def _kept(checkpoints: Checkpoints) -> str:
    return f"The last good checkpoint is {checkpoints.newest or 'none: the run had just begun'}"


def _cache(output: Path) -> Path:
    return output / ".cache" / "weight_maps"
