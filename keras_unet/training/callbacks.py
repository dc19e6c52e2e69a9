"""What happens around `model.fit`'s steps: budget, validation on whole images, files, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keras_unet.data.normalization import Normalization
from keras_unet.data.reading import Sample
from keras_unet.data.targets import scored_classes
from keras_unet.errors import TrainingError
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.models.bundle import TrainedModel, save_model


class Budget(keras.callbacks.Callback):
    """Ends the run after `steps` or `minutes` and lowers the learning rate towards that end.

    The rate is `peak` * (1 - p)^0.9 (Chen et al. 2017, "poly"), p the share of the budget used,
    after a warm-up over the first 2 percent of it.
    """

    def __init__(self, peak: float, steps: int | None, minutes: float | None) -> None:
        super().__init__()
        self.peak, self.steps, self.minutes = peak, steps, minutes
        self.done = 0
        self._start = time.monotonic()

    @property
    def used(self) -> float:
        """Share of the budget used, 0 … 1."""
        by_steps = self.done / self.steps if self.steps else 0.0
        by_time = (time.monotonic() - self._start) / (60 * self.minutes) if self.minutes else 0.0
        return min(max(by_steps, by_time), 1.0)

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        warm_up = min((self.used + 1e-3) / 0.02, 1.0)
        self.model.optimizer.learning_rate = self.peak * warm_up * (1 - self.used) ** 0.9

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.used >= 1.0:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["step"] = self.done
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class Validation(keras.callbacks.Callback):
    """After each epoch, predicts every validation image whole and adds its scores to the logs."""

    def __init__(
        self,
        samples: Sequence[Sample],
        normalization: Normalization,
        num_classes: int,
        separation: int,
    ) -> None:
        super().__init__()
        self.samples, self.normalization, self.num_classes = samples, normalization, num_classes
        self.truths = [scored_classes(sample, separation) for sample in samples]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        entropy, pixels = 0.0, 0
        for sample, truth in zip(self.samples, self.truths, strict=True):
            given = predict(self.model, sample.image, normalization=self.normalization)
            matrix += confusion_matrix(truth, to_classes(given), self.num_classes, ignore_class=-1)
            counted = truth >= 0
            chosen = np.take_along_axis(given, np.maximum(truth, 0)[..., None], -1)
            entropy -= float(np.log(np.maximum(chosen[..., 0][counted], 1e-7)).sum())
            pixels += int(counted.sum())
        found = scores(matrix)
        if logs is not None:
            logs["val_loss"] = entropy / max(pixels, 1)
            for name in ("pixel_accuracy", "pixel_error", "mean_iou", "mean_dice"):
                value = found[name]
                assert isinstance(value, float)
                logs[f"val_{name}"] = value


Bundle = Callable[[dict[str, float]], TrainedModel]


class KeepLast(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch; before the validation, which may take long."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        super().__init__()
        self.path, self.bundle = folder / "last.keras", bundle

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        save_model(self.bundle(finite(logs)), self.path)


class KeepBest(keras.callbacks.Callback):
    """Writes `best.keras` after the first epoch and whenever the monitored score rises."""

    def __init__(self, folder: Path, monitor: str, bundle: Bundle) -> None:
        super().__init__()
        self.path, self.monitor, self.bundle = folder / "best.keras", monitor, bundle
        self.best: float | None = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = (logs or {})[self.monitor]
        if self.best is None or score > self.best:
            self.best = score
            save_model(self.bundle(finite(logs)), self.path)


class StopWhereNotFinite(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a number: what was kept before it stays."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss}: lower learning_rate, or set precision=float32; "
                "best.keras and last.keras hold the epochs before"
            )


def finite(logs: dict[str, float] | None) -> dict[str, float]:
    """The numbers that JSON can hold."""
    return {k: float(v) for k, v in (logs or {}).items() if np.isfinite(v)}


class ShowProgress(keras.callbacks.Callback):
    """One bar for the run with its loss and last validation; a line an epoch where no terminal."""

    def __init__(self, budget: Budget, console: Console) -> None:
        super().__init__()
        self.budget, self.console = budget, console
        self._validation = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=1.0, left="")
        self._start = time.monotonic()

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = time.monotonic()
        if self.console.is_terminal:
            self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.console.is_terminal and self.budget.used > 0:
            left = (time.monotonic() - self._start) * (1 / self.budget.used - 1)
            self._bar.update(
                self._task,
                completed=self.budget.used,
                description=f"step {self.budget.done} loss {float((logs or {})['loss']):.3f}",
                left=f"{left / 60:.1f} min left{self._validation}",
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        dice, error = logs["val_mean_dice"], logs["val_pixel_error"]
        self._validation = f" · validation Dice {dice:.3f}, pixel error {error:.3f}"
        if not self.console.is_terminal:
            self.console.print(
                f"{100 * self.budget.used:3.0f}% step {self.budget.done}"
                f" · loss {logs['loss']:.3f}{self._validation}",
                highlight=False,
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.stop()

    def close(self) -> None:
        """Gives the terminal back after an interruption, when `on_train_end` isn't called."""
        self._bar.stop()
