"""A run whose numbers stop being numbers ends at once, and says which images it saw last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_unet.errors import TrainingError
from keras_unet.training.step import FINITE


class StopWhereNotFinite(keras.callbacks.Callback):
    """Ends a run whose loss or weights are no longer numbers, and names the batch.

    A step that float16's loss scaling leaves out changes no weight, so it ends nothing.

    Args:
        names: the images in a batch, by its number in the run.
        done: steps done before the batch.
        accumulate: batches whose gradients are gathered for one change of the weights.
        kept: where to go on from.
    """

    def __init__(
        self,
        names: Callable[[int], list[str]],
        done: Callable[[], int],
        accumulate: int,
        kept: Callable[[], str],
    ) -> None:
        super().__init__()
        self.names, self.done, self.accumulate, self.kept = names, done, accumulate, kept
        self._batch = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._batch = self.done()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        logs = logs or {}
        loss = float(logs.get("loss", 0.0))
        if np.isfinite(loss) and float(logs.get(FINITE, 1.0)) == 1.0:
            return
        first = self._batch
        if np.isfinite(loss):  # gradients of several batches go into one change
            first -= first % self.accumulate
        names = [name for number in range(first, self._batch + 1) for name in self.names(number)]
        what = "the gradients" if np.isfinite(loss) else f"the loss (now {loss})"
        raise TrainingError(
            f"step {self._batch + 1}: {what} stopped being finite, with tiles of "
            f"{', '.join(dict.fromkeys(names))}. {self.kept()}. Look at these images and their "
            "labels; else begin a run with a lower learning_rate, or with precision=float32"
        )
