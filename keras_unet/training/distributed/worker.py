"""Worker of a cluster: what every machine but the chief does, and what the chief tells it."""

from __future__ import annotations

import io
import json
import signal
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from keras_unet import run_layout
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.record import Evaluation
from keras_unet.models.keras_file import TrainedModel, load_model
from keras_unet.settings import to_tree
from keras_unet.training import build
from keras_unet.training.build import prepare
from keras_unet.training.callbacks import Budget, StopWhereNotFinite
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.distributed.cluster import Team
from keras_unet.training.interruption import Interrupted, StopRequest
from keras_unet.training.loop import restore, run_loop


def follow(team: Team) -> tuple[Path, TrainedModel, Evaluation, bool]:
    """Trains as the chief says, and returns what it returns: see `TrainResult`.

    Settings, the checkpoint to go on from and all decisions are the chief's; this machine needs the
    data set, in the same place. It writes no run folder.

    Raises:
        DataError: the data set here is not the chief's.
    """
    task = hear_task(team)
    if task is not None:
        _steps(task, team)
    ended = hear_end(team)
    if ended is None:
        raise SystemExit(128 + signal.SIGTERM)
    return ended


def _steps(task: Task, team: Team) -> None:
    config, quiet = task.config, Console(quiet=True)
    cache = config.output / run_layout.WEIGHT_MAPS
    prepared = prepare(config, task.source, task.policy, cache, quiet, team)
    model = prepared.model
    average = build.weight_average(config, model, prepared.network)
    digests, arrays, state = hear_state(team)
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


Digests = tuple[dict[str, str], dict[str, str]]  # of training and validation images


class Task(NamedTuple):
    """The run's settings, the same with paths that hold, and the layers' dtype policy."""

    config: TrainConfig
    source: TrainConfig
    policy: str


def tell_task(team: Team, task: Task | None) -> None:
    """From the chief; on the others, see `hear_task`. None where the run was finished already."""
    tree = task and {
        "config": to_tree(task.config),
        "source": to_tree(task.source),
        "policy": task.policy,
    }
    team.share(json.dumps(tree).encode())


def hear_task(team: Team) -> Task | None:
    tree = json.loads(team.share())
    if tree is None:
        return None
    if isinstance(tree, list):
        raise ConfigError(
            f"machine {team.rank}: machine 0 cross-validates in {tree[0]}: start all machines with "
            "the same --folds, or with --resume and that folder within reach"
        )
    return Task(make_config(tree["config"]), make_config(tree["source"]), tree["policy"])


def tell_state(
    team: Team, digests: Digests, snapshot: tuple[list[np.ndarray], dict[str, Any]]
) -> None:
    """From the chief: hashes of its images, and where all begin; see `loop.snapshot`."""
    arrays, state = snapshot
    text = json.dumps({"digests": digests, "state": state}).encode()
    packed = io.BytesIO()
    named: dict[str, Any] = {f"{i:05d}": array for i, array in enumerate(arrays)}
    np.savez(packed, text=np.frombuffer(text, np.uint8), **named)
    team.share(packed.getvalue())


def hear_state(team: Team) -> tuple[Digests, list[np.ndarray], dict[str, Any]]:
    """Digests, arrays and state."""
    with np.load(io.BytesIO(team.share()), allow_pickle=False) as packed:
        tree = json.loads(packed["text"].tobytes())
        arrays = [packed[name] for name in sorted(packed.files) if name != "text"]
    training, validation = tree["digests"]
    return (training, validation), arrays, tree["state"]


def tell_end(team: Team, folder: Path, evaluation: Evaluation | None, interrupted: bool) -> None:
    """From the chief; on the others, see `hear_end`. No evaluation where SIGTERM ended the run."""
    if team.machines == 1:
        return
    text = "null" if evaluation is None else evaluation.model_dump_json()
    head = json.dumps({"folder": str(folder), "interrupted": interrupted, "evaluation": text})
    team.share(head.encode())
    team.share(b"" if evaluation is None else (folder / run_layout.BEST).read_bytes())
    team.part()


def hear_end(team: Team) -> tuple[Path, TrainedModel, Evaluation, bool] | None:
    head, model = json.loads(team.share()), team.share()
    team.part()
    if not model:
        return None
    with tempfile.TemporaryDirectory() as beside:
        Path(beside, run_layout.BEST).write_bytes(model)
        loaded = load_model(beside)
    evaluation = Evaluation.model_validate_json(head["evaluation"])
    return Path(head["folder"]), loaded, evaluation, head["interrupted"]
