"""The steps of a run, and what happens around them: scores, the best model, checkpoints, logs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import keras
from rich.console import Console

from keras_unet.models.bundle import TrainedModel, save_model
from keras_unet.training import callbacks as own
from keras_unet.training import messages, run_folder, setup
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.config import TrainConfig
from keras_unet.training.interruption import Interrupted, StopRequest
from keras_unet.training.logs import History
from keras_unet.training.loop import Position, restore, run_loop, snapshot
from keras_unet.training.prepare import Prepared
from keras_unet.training.progress import ShowProgress
from keras_unet.training.team import Team
from keras_unet.training.watch import StopWhereNotFinite


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
    average = setup.weight_average(config, model, prepared.network)

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
        messages.tell_state(team, prepared.digests, snapshot(model, position, callbacks))

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
        console.print(said, markup=False, soft_wrap=True)
    if number == signal.SIGTERM:  # the machine is about to go
        messages.tell_end(team, folder, None, True)
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
