"""What every machine of a run but the first does: the same steps, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path

from rich.console import Console

from keras_unet.errors import DataError
from keras_unet.evaluation.record import Evaluation
from keras_unet.models.bundle import TrainedModel
from keras_unet.training import messages, setup
from keras_unet.training.callbacks import Budget
from keras_unet.training.interruption import Interrupted, StopRequest
from keras_unet.training.loop import restore, run_loop
from keras_unet.training.prepare import prepare
from keras_unet.training.team import Team
from keras_unet.training.watch import StopWhereNotFinite


def follow(team: Team) -> tuple[Path, TrainedModel, Evaluation, bool]:
    """Trains as the chief says, and returns what it returns: see `TrainResult`.

    Settings, the checkpoint to go on from and all decisions are the chief's; this machine needs the
    data set, in the same place. It writes no run folder.

    Raises:
        DataError: the data set here is not the chief's.
    """
    task = messages.hear_task(team)
    if task is not None:
        _steps(task, team)
    ended = messages.hear_end(team)
    if ended is None:
        raise SystemExit(128 + signal.SIGTERM)
    return ended


def _steps(task: messages.Task, team: Team) -> None:
    config, quiet = task.config, Console(quiet=True)
    cache = config.output / ".cache" / "weight_maps"
    prepared = prepare(config, task.source, task.policy, cache, quiet, team)
    model = prepared.model
    average = setup.weight_average(config, model, prepared.network)
    digests, arrays, state = messages.hear_state(team)
    if digests != prepared.digests:
        raise DataError(
            f"machine {team.rank}: images or labels in {task.source.data.images} are not those of "
            "machine 0: give all machines the same data set, in the same place"
        )
    stop, budget = StopRequest(), Budget.of(config, team.clock)
    callbacks = [
        budget,
        *([] if average is None else [average]),
        StopWhereNotFinite(prepared.names, lambda: budget.done, lambda: "See machine 0"),
    ]
    position = restore(model, callbacks, arrays, state)
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
                at_rest=lambda: team.rest(model, position.step == 0),
            )
        except Interrupted:
            team.leave()
