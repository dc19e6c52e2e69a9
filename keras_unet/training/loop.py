"""The loop over steps and epochs: `model.fit`'s, but one that can begin in the middle of an epoch.

Keras's own loop always begins an epoch at its first step, with its metrics reset, so a run stopped
within an epoch cannot go on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_unet.errors import TrainingError


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


def run_loop(
    model: keras.Model,
    batches: Iterator[Any],
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    steps_per_epoch: int,
    position: Position,
    at_rest: Callable[[], None],
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Trains until a callback sets `model.stop_training`; `position` moves along.

    Args:
        model: compiled; its optimizer is built.
        batches: what `train_step` takes, from the first step to be done on.
        callbacks: called as `fit` calls them. One that stops the run in `on_train_batch_end` lets
            the epoch end early; `on_train_begin` may stop a run that was over already.
        at_rest: called after each step and each epoch; between calls, no state is whole.
        begun: called before the first step, when callbacks may have stopped the run.
    """
    called = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.stop_training = False
    step = model.make_train_function() or model.train_function
    called.on_train_begin()
    begun()
    while position.step > 0 or not model.stop_training:
        called.on_epoch_begin(position.epoch)
        if position.step == 0:
            model.reset_metrics()
        while position.step < steps_per_epoch and not model.stop_training:
            called.on_train_batch_begin(position.step)
            logs = step(batches)
            position.step += 1
            called.on_train_batch_end(position.step - 1, logs)
            at_rest()
        called.on_epoch_end(position.epoch, dict(model.get_metrics_result()))
        position.epoch, position.step = position.epoch + 1, 0
        at_rest()
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
