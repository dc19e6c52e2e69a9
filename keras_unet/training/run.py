"""Training run: from a folder of images and labels to a trained model, its scores and its pictures.

`train` begins a run or goes on with one; `run_steps` is what happens between the first step and the
last.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from rich.console import Console

from keras_unet import pictures, run_layout
from keras_unet.console import console_of, say
from keras_unet.errors import ConfigError, TrainingError
from keras_unet.evaluation.record import Evaluation, read_evaluation
from keras_unet.evaluation.scoring import evaluate_samples
from keras_unet.keras_backend import require_tensorflow
from keras_unet.machine import dtype_policy
from keras_unet.models.keras_file import TrainedModel, clear_unfinished, load_model, save_model
from keras_unet.settings import to_tree
from keras_unet.training import build, run_folder
from keras_unet.training import callbacks as own
from keras_unet.training.build import Prepared, environment, prepare
from keras_unet.training.callbacks import History, ShowProgress, StopWhereNotFinite
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.distributed import worker
from keras_unet.training.distributed.cluster import LOST, Team, join, reason
from keras_unet.training.distributed.worker import follow
from keras_unet.training.interruption import Interrupted, StopRequest
from keras_unet.training.loop import Position, restore, run_loop, snapshot


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
    verbose: int = 1,
) -> TrainResult:
    """Trains a U-Net with the paper's weighted cross-entropy, or goes on with a run.

    The run folder holds `config.toml`, `data.json` (the data check), `run.json` (what a resumed run
    must match), `checkpoints/`, `history.csv`, `tensorboard/`, `best.keras`, and at its end
    `last.keras`, `curves.png`, `evaluation.json` and `overlays/`, without the checkpoints.

    A run that was killed, at any moment, ends after `resume` as it would have without: a run that
    `steps` bounds with the same bits on the same machine. Where `minutes` bound it, the time up to
    the last checkpoint counts, and the learning rate follows the clock.

    Machines that TF_CONFIG names train it together: each calls this with the same arguments. The
    first one decides, validates and writes; the others follow it, and return the same.

    Ctrl-C ends a run after its step with a checkpoint and a usable, scored model; SIGTERM with a
    checkpoint and exit code 143.

    Args:
        config: a `TrainConfig`, or a mapping that makes one. With `resume`: None, or the same.
        console: where progress goes; None prints to the terminal.
        verbose: 0 prints nothing.
        resume: the folder of a run to go on with. A finished one is only read.
        files: more files for the folder of a new run, such as its plan: text by name.

    Raises:
        ConfigError: a setting does not fit, or does not fit the data, or is not the resumed run's.
        DataError: images or labels cannot be used; names every bad file. Nothing is written then.
            Or they are not the resumed run's.
        TrainingError: a number stopped being finite, a disk is full, no checkpoint is whole, or
            another machine of the run is gone.
    """
    require_tensorflow("train")
    if config is None and resume is None:
        raise ConfigError("train: expected a configuration, or a run to resume")
    if config is not None and not isinstance(config, TrainConfig):
        config = make_config(config)
    console = console_of(console, verbose)
    if config is None and (Path(resume or "") / run_layout.RECORD).is_file():
        begun = make_config(run_folder.read_record(Path(resume or "")).config)
        team = join(begun.devices)
    else:
        team = join("auto" if config is None else config.devices)
    try:
        if not team.chief:
            return TrainResult(*follow(team))
        if resume is not None:
            return _resume(Path(resume), config, console, team)
        assert config is not None
        return _begin(config, console, files or {}, team)
    except LOST as error:
        if team.machines == 1:
            raise
        raise TrainingError(
            f"machine {team.rank} of {team.machines}: another machine of this run is gone "
            f"({reason(error)}). Start all of them again: "
            "keras-unet train --resume with the run's folder goes on from its last checkpoint"
        ) from error


def _begin(
    config: TrainConfig, console: Console, files: Mapping[str, str], team: Team
) -> TrainResult:
    policy, why = dtype_policy(config.precision)
    console.print(f"Layers compute in {policy} ({why})")
    prepared = _prepare(config, config, policy, _cache(config.output), console, team)
    record = run_folder.RunRecord(
        config=to_tree(config),
        directory=str(Path.cwd()),
        policy=policy,
        environment=environment(team),
        training=prepared.digests[0],
        validation=prepared.digests[1],
    )
    folder = run_folder.create(
        config, record, {**files, run_layout.DATA_REPORT: prepared.report.to_json() + "\n"}
    )
    with run_folder.RunLock(folder):
        return _run(folder, config, record, prepared, None, console, team)


def _resume(folder: Path, config: TrainConfig | None, console: Console, team: Team) -> TrainResult:
    record = run_folder.read_record(folder)
    if config is not None:
        run_folder.require_same_config(folder, record, config)
    if record.finished:
        say(f"{folder}: this run is finished", console=console)
        Checkpoints(folder).remove()  # a killed process may have left some
        evaluation = read_evaluation(folder)
        worker.tell_task(team, None)
        worker.tell_end(team, folder, evaluation, False)
        return TrainResult(folder, load_model(folder), evaluation, False)
    config = make_config(record.config)
    with run_folder.RunLock(folder):
        checkpoints = Checkpoints(folder)
        checkpoints.tidy()
        clear_unfinished(folder)
        checkpoint = checkpoints.read()
        now = environment(team)
        for name, begun in record.environment.items():
            if begun != now.get(name):
                said = f"{name}: begun with {begun}, now {now.get(name)}: not the same bits"
                say(said, "yellow", console)
        source = run_folder.rooted(config, record.directory)
        prepared = _prepare(config, source, record.policy, _cache(folder.parent), console, team)
        run_folder.require_same_data(folder, record, *prepared.digests)
        return _run(folder, config, record, prepared, checkpoint, console, team)


def _prepare(
    config: TrainConfig,
    source: TrainConfig,
    policy: str,
    cache: Path,
    console: Console,
    team: Team,
) -> Prepared:
    """`prepare`, on all machines."""
    if team.replicas > 1:
        console.print(f"{team.replicas} devices on {team.machines} machine(s) share each batch")
    elif (gpus := len(tf.config.list_physical_devices("GPU"))) > 1:
        console.print(f"1 of {gpus} GPUs is used; devices=all would use all of them")
    worker.tell_task(team, worker.Task(config, source, policy))
    return prepare(config, source, policy, cache, console, team)


def _run(
    folder: Path,
    config: TrainConfig,
    record: run_folder.RunRecord,
    prepared: Prepared,
    checkpoint: Checkpoint | None,
    console: Console,
    team: Team,
) -> TrainResult:
    """Trains, evaluates the best model and closes the run."""
    try:
        interrupted = run_steps(folder, config, prepared, checkpoint, console, team)
        model = load_model(folder)
        try:
            evaluation = evaluate_samples(model, prepared.validation, output=folder)
            pictures.curves(folder / run_layout.HISTORY, folder / run_layout.CURVES)
        except (KeyboardInterrupt, SystemExit):
            said = f"Stopped while scoring; to go on: {run_folder.how_to_resume(folder)}"
            say(said, console=console)
            raise
        if not interrupted:
            run_folder.write_record(folder, record.model_copy(update={"finished": True}))
            Checkpoints(folder).remove()
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written ({error}). Its checkpoints stay; when there is room, go "
            f"on: {run_folder.how_to_resume(folder)}"
        ) from error
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise TrainingError(
            f"{folder}: out of memory. {config.batch_size} tile(s) a step, {config.model.filters} "
            "filters: begin a new run with a smaller batch_size (and accumulate, for the same "
            "gradient), a smaller tile, or less filters"
        ) from error
    worker.tell_end(team, folder, evaluation, interrupted)
    return TrainResult(folder, model, evaluation, interrupted)


def _cache(output: Path) -> Path:
    return output / run_layout.WEIGHT_MAPS


def run_steps(
    folder: Path,
    config: TrainConfig,
    prepared: Prepared,
    checkpoint: Checkpoint | None,
    console: Console,
    team: Team,
) -> bool:
    """The steps; True if Ctrl-C ended them before their time."""
    model, checkpoints = prepared.model, Checkpoints(folder)
    average = build.weight_average(config, model, prepared.network)

    def bundle(metrics: dict[str, float]) -> TrainedModel:
        network = prepared.network if average is None else average.network()
        return TrainedModel(network, prepared.card(folder.name, metrics))

    stop = StopRequest()
    budget = own.Budget.of(config, team.clock)
    card, monitor = prepared.card(folder.name, {}), f"val_{config.monitor}"
    history, progress = History(folder), ShowProgress(budget, console)
    callbacks: list[keras.callbacks.Callback] = [
        budget,
        *([] if average is None else [average]),
        StopWhereNotFinite(
            prepared.names,
            lambda: budget.done,
            lambda: _kept(checkpoints),
            prepared.report.summary.label_values,
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
    if team.machines > 1:
        worker.tell_state(team, prepared.digests, snapshot(model, position, callbacks))

    def write() -> None:
        since = time.monotonic()
        checkpoints.write(budget.done, *snapshot(model, position, callbacks), since=since)

    def at_rest() -> None:
        team.rest(model, position.step == 0)
        over = position.step == 0 and model.stop_training
        if over or checkpoints.due(0.0 if position.step == 0 else 60 * config.checkpoint_minutes):
            write()

    number: int | None = None
    with stop:
        try:
            team.begin(lambda: stop.number)
            run_loop(
                model,
                iter(prepared.data(budget.done)),
                callbacks,
                steps_per_epoch=config.steps_per_epoch,
                position=position,
                begun=lambda: team.rest(model, True),
                at_rest=at_rest,
            )
        except Interrupted as asked:
            number = asked.number
            team.leave()
            write()
        finally:
            progress.close()
            history.close()
        _keep(folder, bundle, budget.done)
        if stop.number is not None and number != signal.SIGTERM:
            number = stop.number  # it came while that was written
    if number is not None:
        name = signal.Signals(number).name
        command = run_folder.how_to_resume(folder)
        said = f"Stopped at step {budget.done} ({name}); to go on: {command}"
        say(said, console=console)
    if number == signal.SIGTERM:  # the machine is about to go
        worker.tell_end(team, folder, None, True)
        raise SystemExit(128 + number)
    return number is not None


def _keep(folder: Path, bundle: Callable[[dict[str, float]], TrainedModel], done: int) -> None:
    """Writes `last.keras`, and `best.keras` where no epoch was finished."""
    model = bundle({"step": float(done)})
    save_model(model, folder / run_layout.LAST)
    if not (folder / run_layout.BEST).is_file():
        save_model(model, folder / run_layout.BEST)


def _kept(checkpoints: Checkpoints) -> str:
    return f"The last good checkpoint is {checkpoints.newest or 'none: the run had just begun'}"
