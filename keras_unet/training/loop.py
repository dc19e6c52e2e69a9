"""Loop over steps and epochs: `model.fit`'s, but one that can begin in the middle of an epoch.

Keras's own loop always begins an epoch at its first step, with its metrics reset, so a run stopped
within an epoch cannot go on there. `run_steps` is the whole of a run's steps, from a checkpoint to
the end or to a signal; `run_loop` is the loop itself.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
from rich.console import Console

from keras_unet.console import say
from keras_unet.errors import TrainingError
from keras_unet.training.callbacks import Budget
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.distributed.cluster import Cluster

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # that end a run between two steps


@dataclass
class Position:
    """Where a run is: `step` steps of `epoch` are done."""

    epoch: int = 0
    step: int = 0


@runtime_checkable
class Stateful(Protocol):
    """A callback with numbers that a checkpoint must hold, as JSON can hold them."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def run_steps(
    model: keras.Model,
    data: Callable[[int], Any],
    callbacks: Sequence[keras.callbacks.Callback],
    budget: Budget,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    *,
    steps_per_epoch: int,
    checkpoint_minutes: float,
    keep: Callable[[], None],
    how_to_resume: str,
    console: Console,
    stop: StopRequest | None = None,
    cluster: Cluster | None = None,
    begins: Callable[[Position], None] = lambda position: None,
) -> int | None:
    """Trains from a checkpoint, or from the first step, until the budget is used or a signal comes.

    Args:
        model: compiled; its optimizer is built.
        data: what `train_step` takes, as an iterable, from the batch of a number on.
        callbacks: as `run_loop` has them; the budget among them. One with a method `close` is
            closed at the end, however that comes.
        checkpoints, checkpoint: of the run, and the one to go on from.
        checkpoint_minutes: between two checkpoints within an epoch.
        keep: writes the model after the last step, also after a signal.
        how_to_resume: the command to tell of after a signal.
        stop: notes signals. cluster: the machines that train.
        begins: called with the position before the first step.

    Returns:
        The number of the signal that ended it before its time, or None.

    Raises:
        TrainingError: the checkpoint does not fit, or none can be written.
    """
    stop, cluster, position = stop or StopRequest(), cluster or Cluster(), Position()
    if checkpoint is not None:
        position = restore(model, callbacks, checkpoint.arrays, checkpoint.state)
        checkpoints.good = [checkpoint.path]
        say(f"Going on at step {budget.done}", console=console)
    begins(position)

    def save(now: bool) -> None:
        wanted = 0.0 if position.step == 0 else 60 * checkpoint_minutes
        if now or checkpoints.due(wanted):
            since = time.monotonic()
            state = snapshot(model, position, callbacks)
            checkpoints.write(budget.done, *state, since=since)

    with stop:
        number = run_until_stopped(
            model,
            lambda: iter(data(budget.done)),
            callbacks,
            steps_per_epoch=steps_per_epoch,
            position=position,
            stop=stop,
            cluster=cluster,
            save=save,
        )
        keep()
        if stop.number is not None and number != signal.SIGTERM:
            number = stop.number  # it came while that was written
    if number is not None:
        name = signal.Signals(number).name
        said = f"Stopped at step {budget.done} ({name}); to go on: {how_to_resume}"
        say(said, console=console)
    return number


def run_until_stopped(
    model: keras.Model,
    batches: Callable[[], Iterator[Any]],
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    steps_per_epoch: int,
    position: Position,
    stop: StopRequest,
    cluster: Cluster,
    save: Callable[[bool], None] = lambda now: None,
) -> int | None:
    """`run_loop` of all machines together; the signal that ended it on all of them, or None.

    stop: entered. save: called between two steps; with True at the end.
    """

    def check(epoch_over: bool) -> None:
        number = cluster.check(model, epoch_over)
        if number is not None:
            raise Interrupted(number)

    def between_steps() -> None:
        check(position.step == 0)
        save(position.step == 0 and model.stop_training)

    with ExitStack() as closing:
        for part in callbacks:
            if hasattr(part, "close"):
                closing.callback(part.close)
        try:
            cluster.begin(lambda: stop.number)
            run_loop(
                model,
                batches(),
                callbacks,
                steps_per_epoch=steps_per_epoch,
                position=position,
                before_first=lambda: check(True),
                between_steps=between_steps,
            )
        except Interrupted as asked:
            cluster.leave()
            save(True)
            return asked.number
    return None


def run_loop(
    model: keras.Model,
    batches: Iterator[Any],
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    steps_per_epoch: int,
    position: Position,
    between_steps: Callable[[], None],
    before_first: Callable[[], None] = lambda: None,
) -> None:
    """Trains until a callback sets `model.stop_training`; `position` moves along.

    Args:
        model: compiled; its optimizer is built.
        batches: what `train_step` takes, from the first step to be done on.
        callbacks: called as `fit` calls them. One that stops the run in `on_train_batch_end` lets
            the epoch end early; `on_train_begin` may stop a run that was over already.
        between_steps: called after each step and each epoch; elsewhere, no state is whole.
        before_first: called before the first step, when callbacks may have stopped the run.
    """
    called = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.stop_training = False
    step = model.make_train_function() or model.train_function
    called.on_train_begin()
    before_first()
    while position.step > 0 or not model.stop_training:
        called.on_epoch_begin(position.epoch)
        if position.step == 0:
            model.reset_metrics()
        while position.step < steps_per_epoch and not model.stop_training:
            called.on_train_batch_begin(position.step)
            logs = step(batches)
            position.step += 1
            called.on_train_batch_end(position.step - 1, logs)
            between_steps()
        called.on_epoch_end(position.epoch, dict(model.get_metrics_result()))
        position.epoch, position.step = position.epoch + 1, 0
        between_steps()
    model.optimizer.finalize_variable_values(model.trainable_weights)
    called.on_train_end()


def variables(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, dropout's seeds, the optimizer's, the metrics'."""
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def snapshot(
    model: keras.Model, position: Position, callbacks: Sequence[Any]
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The values of all variables, and where the run and its callbacks are."""
    parts = {type(part).__name__: part.state() for part in callbacks if isinstance(part, Stateful)}
    arrays = [variable.value.numpy() for variable in variables(model)]
    return arrays, {"epoch": position.epoch, "step": position.step, "callbacks": parts}


def restore(
    model: keras.Model,
    callbacks: Sequence[Any],
    arrays: Sequence[np.ndarray],
    state: Mapping[str, Any],
) -> Position:
    """Puts a snapshot back.

    Raises:
        TrainingError: it does not fit: another version of this package or of Keras wrote it.
    """
    into = variables(model)
    kinds = [(tuple(v.shape), np.dtype(v.dtype).str) for v in into]
    if kinds != [(a.shape, a.dtype.str) for a in arrays]:
        raise TrainingError(
            f"the checkpoint holds {len(arrays)} variables, of other shapes than the network's and "
            f"the optimizer's {len(into)}: another version of keras_unet or Keras wrote it"
        )
    try:
        for part in callbacks:
            if isinstance(part, Stateful):
                part.restore(state["callbacks"][type(part).__name__])
        position = Position(int(state["epoch"]), int(state["step"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint's numbers cannot be used ({error!r}): another version wrote it"
        ) from error
    for variable, array in zip(into, arrays, strict=True):
        variable.assign(array)
    return position


class Interrupted(Exception):
    """The run was asked to end; raised where its state is whole."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest(AbstractContextManager["StopRequest"]):
    """While entered, notes SIGINT and SIGTERM instead of stopping in the middle of a step.

    A second Ctrl-C is obeyed at once, as a KeyboardInterrupt. Outside the main thread, where Python
    takes no handlers, signals do what they did before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raises `Interrupted` if a signal came."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
