"""A run whose numbers stop being numbers ends at once, and says which images it saw last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_unet.data.report import listed
from keras_unet.errors import TrainingError
from keras_unet.training.step import FINITE

LEAST_SCALE = 1.0  # of float16's losses: they are scaled up, so below it gradients overflow anyway


class StopWhereNotFinite(keras.callbacks.Callback):
    """Ends a run whose loss, gradients or weights are no longer numbers, and names the batch.

    A step that float16's loss scaling leaves out changes no weight and ends nothing, until there
    are so many that the scale falls below `LEAST_SCALE`.

    Args:
        names: the images in a batch, by its number in the run.
        done: steps done before the batch.
        kept: where to go on from.
        values: the label values of the data set.
    """

    def __init__(
        self,
        names: Callable[[int], list[str]],
        done: Callable[[], int],
        kept: Callable[[], str],
        values: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.names, self.done, self.kept = names, done, kept
        self._values = values
        self._batch = 0
        self._scale: float | None = None  # None: losses aren't scaled
        self._left_out: list[int] = []  # batches, of this process

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            self._scale = float(optimizer.dynamic_scale)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._batch = self.done()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        logs = logs or {}
        loss = float(logs.get("loss", 0.0))
        if not np.isfinite(loss):
            self._stop(f"the loss (now {loss}) stopped being finite", self.names(self._batch))
        if float(logs.get(FINITE, 1.0)) != 1.0:
            self._stop("the gradients stopped being finite", self.names(self._batch))
        if self._scale is not None:
            self._look_at(self._scale, float(self.model.optimizer.dynamic_scale))

    def _look_at(self, before: float, scale: float) -> None:
        """It is halved where a step is left out."""
        self._scale = scale
        if scale < before:
            self._left_out.append(self._batch)
        if scale < LEAST_SCALE:
            counts = Counter(n for b in self._left_out for n in dict.fromkeys(self.names(b)))
            names = [f"{name} ({count} times)" for name, count in counts.most_common(5)]
            what = f"gradients overflow float16: {len(self._left_out)} steps were left out"
            self._stop(what, names)

    def _stop(self, what: str, names: list[str]) -> None:
        seen = (
            f" (label values of the set: {listed(self._values)}; one that is no class belongs into "
            "data.label_ignore, the ignore_class of a loss)"
            if self._values
            else ""
        )
        raise TrainingError(
            f"step {self._batch + 1}: {what}, with tiles of {', '.join(names)}. {self.kept()}. "
            f"Look at these images and their labels{seen}; else begin a run with a lower "
            "learning_rate, or with precision=float32"
        )
