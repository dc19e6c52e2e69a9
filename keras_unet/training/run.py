"""Training run: from a folder of images and labels to a trained model, its scores and its pictures.

`train` begins a run or goes on with one; either way `_finish` trains, scores and closes it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from rich.console import Console

from keras_unet import pictures, run_layout
from keras_unet.console import console_of, say
from keras_unet.data.check import Loaded
from keras_unet.errors import ConfigError, TrainingError
from keras_unet.evaluation.decoding_fit import fit_decoding, object_sizes
from keras_unet.evaluation.evaluation import Evaluation, read_evaluation
from keras_unet.evaluation.scoring import evaluate_samples
from keras_unet.inference.predictor import Predictor
from keras_unet.keras_backend import require_tensorflow
from keras_unet.machine import dtype_policy, this_machine
from keras_unet.models.keras_file import TrainedModel, clear_unfinished, load_model, save_model
from keras_unet.settings import to_tree
from keras_unet.training import run_folder
from keras_unet.training.ancestor import Weights, read_ancestor
from keras_unet.training.build import Built, Task, build, environment
from keras_unet.training.callbacks import (
    Budget,
    History,
    KeepBest,
    Patience,
    ShowProgress,
    StopWhereNotFinite,
    Validation,
)
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.distributed.cluster import Cluster, join
from keras_unet.training.loop import Position, StopRequest, run_steps, snapshot
from keras_unet.training.outcome import Outcome, expected_steps, lessons
from keras_unet.training.worker import send_result, send_state, send_task, work


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
    loaded: Loaded | None = None,
    verbose: int = 1,
) -> TrainResult:
    """Trains a U-Net with the paper's weighted cross-entropy, or goes on with a run.

    The run folder holds `config.toml`, `data.json` (the data check), `run.json` (what a resumed run
    must match), `checkpoints/`, `history.csv`, `tensorboard/`, `best.keras`, and at its end
    `last.keras`, `curves.png`, `evaluation.json`, `report.html` and `overlays/`, without the
    checkpoints. What the run itself says (too short, still rising, learned by heart) is the
    first advice of its evaluation.

    A run that was killed, at any moment, ends after `resume` as it would have without: a run that
    `steps` bounds with the same bits on the same machine. Where `minutes` bound it, the time up to
    the last checkpoint counts, and the learning rate follows the clock.

    With `init` it begins with the weights of a trained model, of which what fits is taken; see
    `ancestor`. A run that goes on needs that model again only while it has no checkpoint.

    Machines that TF_CONFIG names train it together: each calls this with the same arguments. The
    chief, the first of them, decides, validates and writes; the others do its steps, and return
    the same.

    Ctrl-C ends a run after its step with a checkpoint and a usable, scored model; SIGTERM with a
    checkpoint and exit code 143.

    Args:
        config: a `TrainConfig`, or a mapping that makes one. With `resume`: None, or the same.
        console: where progress goes; None prints to the terminal.
        verbose: 0 prints nothing.
        resume: the folder of a run to go on with. A finished one is only read.
        files: more files for the folder of a new run, such as its plan: text by name.
        loaded: what is in `data.images`, where that was read already, as in a plan.

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
    console, folder, begun = console_of(console, verbose), Path(resume or ""), config
    if config is None and (folder / run_layout.RECORD).is_file():
        begun = make_config(run_folder.read_record(folder).config)
    with join("auto" if begun is None else begun.devices) as cluster:
        if not cluster.chief:
            return TrainResult(*work(cluster, loaded))
        if resume is not None:
            return _resume(folder, config, console, cluster, loaded)
        assert config is not None
        return _begin(config, files or {}, console, cluster, loaded)


def _begin(
    config: TrainConfig,
    files: Mapping[str, str],
    console: Console,
    cluster: Cluster,
    loaded: Loaded | None,
) -> TrainResult:
    policy, why = dtype_policy(config.precision)
    say(f"Layers compute in {policy} ({why})", console=console)
    read = None if config.init is None else read_ancestor(config.init)
    task = Task(config, config, policy, read and read.ancestor)
    built = _build(task, config.output, console, cluster, loaded, read and read.weights)
    record = run_folder.RunRecord(
        config=to_tree(config),
        directory=str(Path.cwd()),
        policy=policy,
        environment=environment(cluster.machines, cluster.replicas),
        training=built.digests[0],
        validation=built.digests[1],
        ancestor=task.ancestor,
        expected_steps=_expected_steps(config, built),
    )
    files = {**files, run_layout.DATA_REPORT: built.report.to_json() + "\n"}
    folder = run_folder.create(config, record, files)
    with run_folder.locked_run(folder):
        return _finish(folder, config, record, built, None, console)


def _resume(
    folder: Path,
    config: TrainConfig | None,
    console: Console,
    cluster: Cluster,
    loaded: Loaded | None,
) -> TrainResult:
    record = run_folder.read_record(folder)
    if config is not None:
        instead = f"; init={folder} begins it with what this one learned"
        run_folder.require_same_config(folder, record, config, instead=instead)
    if record.finished:
        say(f"{folder}: this run is finished", console=console)
        Checkpoints(folder).remove()  # a killed process may have left some
        evaluation = read_evaluation(folder)
        if cluster.machines > 1:
            send_task(cluster, None)
            send_result(cluster, folder, evaluation, False)
        return TrainResult(folder, load_model(folder), evaluation, False)
    config = make_config(record.config)
    with run_folder.locked_run(folder):
        clear_unfinished(folder)
        checkpoint = run_folder.resumed(
            folder, record, environment(cluster.machines, cluster.replicas), console
        )
        source = run_folder.rooted(config, record.directory)
        task = Task(config, source, record.policy, record.ancestor)
        weights = None
        if source.init is not None and checkpoint is None:
            weights = read_ancestor(source.init, record.ancestor).weights
        built = _build(task, folder.parent, console, cluster, loaded, weights)
        run_folder.require_same_data(folder, record, *built.digests)
        return _finish(folder, config, record, built, checkpoint, console)


def _expected_steps(config: TrainConfig, built: Built) -> int:
    assert built.report.mapping is not None  # there are labels
    channels, classes = built.training[0].image.shape[-1], built.report.mapping.num_classes
    machine = this_machine(config.devices)
    return expected_steps(config, machine, tile=built.tile, channels=channels, classes=classes)


def _build(
    task: Task,
    output: Path,
    console: Console,
    cluster: Cluster,
    loaded: Loaded | None,
    weights: Weights | None,
) -> Built:
    """`build`, on all machines."""
    if cluster.replicas > 1:
        said = f"{cluster.replicas} devices on {cluster.machines} machine(s) share each batch"
        say(said, console=console)
    elif (gpus := len(tf.config.list_physical_devices("GPU"))) > 1:
        say(f"1 of {gpus} GPUs is used; devices=all would use all of them", console=console)
    if cluster.machines > 1:
        send_task(cluster, task)
    return build(task, output, console, cluster, loaded, weights)


def _finish(
    folder: Path,
    config: TrainConfig,
    record: run_folder.RunRecord,
    built: Built,
    checkpoint: Checkpoint | None,
    console: Console,
) -> TrainResult:
    """Trains, evaluates the best model and closes the run."""
    with _explained(folder, config):
        outcome = _steps(folder, config, built, checkpoint, console)
        advice = lessons(outcome, config, record.expected_steps, folder)
        try:
            model = _with_decoding(folder, load_model(folder), built, console)
            evaluation = evaluate_samples(model, built.validation, output=folder, advice=advice)
            pictures.curves(folder / run_layout.HISTORY, folder / run_layout.CURVES)
        except (KeyboardInterrupt, SystemExit):
            said = f"Stopped while scoring; to go on: {run_folder.how_to_resume(folder)}"
            say(said, console=console)
            raise
        if not outcome.interrupted:
            run_folder.finish(folder, record)
    if built.cluster.machines > 1:
        send_result(built.cluster, folder, evaluation, outcome.interrupted)
    return TrainResult(folder, model, evaluation, outcome.interrupted)


def _with_decoding(
    folder: Path, model: TrainedModel, built: Built, console: Console
) -> TrainedModel:
    """The best model with how it finds objects best, which its file keeps from now on."""
    if model.card.objects is None:
        return model
    predictor = Predictor(model)
    fitted = fit_decoding(predictor, built.training, object_sizes(built.training))
    say(f"Objects: {fitted}", console=console)
    if fitted != model.card.objects:
        model = model._replace(card=model.card.model_copy(update={"objects": fitted}))
        save_model(model, folder / run_layout.BEST)
    return model


def _steps(
    folder: Path,
    config: TrainConfig,
    built: Built,
    checkpoint: Checkpoint | None,
    console: Console,
) -> Outcome:
    """The steps, and what happens around them."""
    cluster, card, monitor = built.cluster, built.card(folder.name, {}), f"val_{config.monitor}"
    stop, budget, checkpoints = StopRequest(), Budget.of(config, cluster.clock), Checkpoints(folder)
    history = History(folder)

    def trained(metrics: dict[str, float]) -> TrainedModel:
        return TrainedModel(built.network(), built.card(folder.name, metrics))

    callbacks: list[keras.callbacks.Callback] = [
        budget,
        *([] if built.average is None else [built.average]),
        StopWhereNotFinite(
            built.names,
            lambda: budget.done,
            checkpoints.last_good,
            built.report.summary.label_values,
        ),
        Validation(
            built.validation,
            trained,
            card.normalization,
            len(card.classes),
            card.separation,
            stop.check,
        ),
        KeepBest(folder, monitor, trained),
        history,
        ShowProgress(budget, console),
        *([Patience(monitor, config.patience)] if config.patience else []),
    ]

    def begins(position: Position) -> None:
        if cluster.machines > 1:
            send_state(cluster, built.digests, snapshot(built.model, position, callbacks))

    def keep() -> None:
        """Writes `last.keras`, and `best.keras` where no epoch was finished."""
        model = trained({"step": float(budget.done)})
        save_model(model, folder / run_layout.LAST)
        if not (folder / run_layout.BEST).is_file():
            save_model(model, folder / run_layout.BEST)

    number = run_steps(
        built.model,
        built.data,
        callbacks,
        budget,
        checkpoints,
        checkpoint,
        steps_per_epoch=config.steps_per_epoch,
        checkpoint_minutes=config.checkpoint_minutes,
        keep=keep,
        how_to_resume=run_folder.how_to_resume(folder),
        console=console,
        stop=stop,
        cluster=cluster,
        begins=begins,
    )
    if number == signal.SIGTERM:  # the machine is about to go
        if cluster.machines > 1:
            send_result(cluster, folder, None, True)
        raise SystemExit(128 + number)
    interrupted = number is not None
    return Outcome(budget.done, budget.seconds / 60, budget.used, interrupted, history.rows)


@contextmanager
def _explained(folder: Path, config: TrainConfig) -> Iterator[None]:
    """What a full disk or memory means for a run, and what to do."""
    try:
        yield
    except (OSError, tf.errors.ResourceExhaustedError, MemoryError) as error:
        # TensorFlow, which writes for TensorBoard, has one error for a full disk and full memory
        if isinstance(error, OSError) or os.strerror(errno.ENOSPC) in str(error):
            raise TrainingError(
                f"{folder}: cannot be written ({error}). Its checkpoints stay; when there is "
                f"room, go on: {run_folder.how_to_resume(folder)}"
            ) from error
        raise TrainingError(
            f"{folder}: out of memory. {config.batch_size} tile(s) a step, {config.model.filters} "
            "filters: begin a new run with a smaller batch_size (and accumulate, for the same "
            "gradient), a smaller tile, or less filters"
        ) from error
