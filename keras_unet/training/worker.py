"""Worker of a cluster: what every machine but the chief does, and what the chief sends it."""

from __future__ import annotations

import io
import json
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from keras_unet import run_layout
from keras_unet.data.check import Loaded
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.evaluation import Evaluation
from keras_unet.models.keras_file import TrainedModel, load_model
from keras_unet.training.build import Digests, Task, build
from keras_unet.training.callbacks import Budget, StopWhereNotFinite
from keras_unet.training.distributed.cluster import Cluster
from keras_unet.training.loop import StopRequest, restore, run_until_stopped

Result = tuple[Path, TrainedModel, Evaluation, bool]  # the fields of a `TrainResult`


def work(cluster: Cluster, loaded: Loaded | None = None) -> Result:
    """Trains with the chief, and returns what it returns.

    Settings, the checkpoint to go on from and all decisions are the chief's; this machine needs the
    data set, in the same place. It writes no run folder.

    Raises:
        DataError: the data set here is not the chief's.
    """
    task = receive_task(cluster)
    if task is not None:
        _steps(task, cluster, loaded)
    result = receive_result(cluster)
    if result is None:
        raise SystemExit(128 + signal.SIGTERM)
    return result


def _steps(task: Task, cluster: Cluster, loaded: Loaded | None) -> None:
    config = task.config
    built = build(task, config.output, Console(quiet=True), cluster, loaded)
    digests, arrays, state = receive_state(cluster)
    if digests != built.digests:
        raise DataError(
            f"machine {cluster.rank}: images or labels in {task.source.data.images} are not those "
            "of machine 0: give all machines the same data set, in the same place"
        )
    budget = Budget.of(config, cluster.clock)
    callbacks = [
        budget,
        *([] if built.average is None else [built.average]),
        StopWhereNotFinite(built.names, lambda: budget.done, lambda: "See machine 0"),
    ]
    position = restore(built.model, callbacks, arrays, state)
    with StopRequest() as stop:
        run_until_stopped(
            built.model,
            lambda: iter(built.data(budget.done)),
            callbacks,
            steps_per_epoch=config.steps_per_epoch,
            position=position,
            stop=stop,
            cluster=cluster,
        )


def send_task(cluster: Cluster, task: Task | None) -> None:
    """From the chief; see `receive_task`. None where the run was finished already."""
    cluster.broadcast(json.dumps(task and task.to_tree()).encode())


def receive_task(cluster: Cluster) -> Task | None:
    tree = json.loads(cluster.broadcast())
    if tree is None:
        return None
    if isinstance(tree, list):
        raise ConfigError(
            f"machine {cluster.rank}: machine 0 cross-validates in {tree[0]}: start all machines "
            "with the same --folds, or with --resume and that folder within reach"
        )
    return Task.of(tree)


def send_state(
    cluster: Cluster, digests: Digests, snapshot: tuple[list[np.ndarray], dict[str, Any]]
) -> None:
    """From the chief: hashes of its images, and where all begin; see `loop.snapshot`."""
    arrays, state = snapshot
    text = json.dumps({"digests": digests, "state": state}).encode()
    packed = io.BytesIO()
    named: dict[str, Any] = {f"{i:05d}": array for i, array in enumerate(arrays)}
    np.savez(packed, text=np.frombuffer(text, np.uint8), **named)
    cluster.broadcast(packed.getvalue())


def receive_state(cluster: Cluster) -> tuple[Digests, list[np.ndarray], dict[str, Any]]:
    """Digests, arrays and state."""
    with np.load(io.BytesIO(cluster.broadcast()), allow_pickle=False) as packed:
        tree = json.loads(packed["text"].tobytes())
        arrays = [packed[name] for name in sorted(packed.files) if name != "text"]
    training, validation = tree["digests"]
    return (training, validation), arrays, tree["state"]


def send_result(
    cluster: Cluster, folder: Path, evaluation: Evaluation | None, interrupted: bool
) -> None:
    """From the chief; on the others, see `receive_result`. None where SIGTERM ended the run."""
    text = "null" if evaluation is None else evaluation.model_dump_json()
    head = json.dumps({"folder": str(folder), "interrupted": interrupted, "evaluation": text})
    cluster.broadcast(head.encode())
    cluster.broadcast(b"" if evaluation is None else (folder / run_layout.BEST).read_bytes())
    cluster.barrier()


def receive_result(cluster: Cluster) -> Result | None:
    head, model = json.loads(cluster.broadcast()), cluster.broadcast()
    cluster.barrier()
    if not model:
        return None
    with tempfile.TemporaryDirectory() as beside:
        Path(beside, run_layout.BEST).write_bytes(model)
        loaded = load_model(beside)
    evaluation = Evaluation.model_validate_json(head["evaluation"])
    return Path(head["folder"]), loaded, evaluation, head["interrupted"]
