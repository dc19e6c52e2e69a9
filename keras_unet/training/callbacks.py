"""What happens around the steps: budget, validation on whole images, the best model, patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_unet.data.normalization import Normalization
from keras_unet.data.reading import Sample
from keras_unet.data.targets import scored_classes
from keras_unet.errors import DataError
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.models.bundle import TrainedModel, read_card, save_model
from keras_unet.training.config import TrainConfig
from keras_unet.training.schedules import Schedule, learning_rate

Bundle = Callable[[dict[str, float]], TrainedModel]


class Budget(keras.callbacks.Callback):
    """Ends the run after `steps` or `minutes` and sets the learning rate on the way.

    The rate is `schedules.learning_rate` of the share of the budget that is used. `clock` gives
    seconds; machines that train together have one between them.
    """

    def __init__(
        self,
        peak: float,
        steps: int | None,
        minutes: float | None,
        schedule: Schedule = "polynomial",
        warmup_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.peak, self.steps, self.minutes = peak, steps, minutes
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.done = 0
        self._before = 0.0  # seconds, of the processes before this one
        self._clock, self._start = clock, clock()

    @classmethod
    def of(cls, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> Budget:
        """The budget of a run."""
        return cls(
            config.learning_rate,
            config.steps,
            config.time_limit,
            config.schedule,
            config.warmup_steps,
            clock,
        )

    @property
    def seconds(self) -> float:
        """Time used; that between the last checkpoint and a kill isn't known, and not counted."""
        return self._before + self._clock() - self._start

    def state(self) -> dict[str, Any]:
        return {"done": self.done, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.done, self._before = int(state["done"]), float(state["seconds"])

    @property
    def used(self) -> float:
        """Share of the budget used, 0 … 1."""
        by_steps = self.done / self.steps if self.steps else 0.0
        by_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(max(by_steps, by_time), 1.0)

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = self._clock()
        if self.used >= 1.0:
            self.model.stop_training = True

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = learning_rate(
            self.peak,
            used=self.used,
            step=self.done,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
        )

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
        bundle: Bundle,
        normalization: Normalization,
        num_classes: int,
        separation: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.check = check  # called between images; what it raises ends the run
        self.bundle = bundle  # what is kept may be another network than the one that is trained
        self.samples, self.normalization, self.num_classes = samples, normalization, num_classes
        self.truths = [scored_classes(sample, separation) for sample in samples]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        entropy, pixels = 0.0, 0
        network = self.bundle({}).network
        for sample, truth in zip(self.samples, self.truths, strict=True):
            self.check()
            given = predict(network, sample.measured, normalization=self.normalization)
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


class KeepBest(keras.callbacks.Callback):
    """Writes `best.keras` after the first epoch and whenever the monitored score rises."""

    def __init__(self, folder: Path, monitor: str, bundle: Bundle) -> None:
        super().__init__()
        self.path, self.monitor, self.bundle = folder / "best.keras", monitor, bundle
        self.best: float | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Goes on from the file that is there; it may be later than a resumed run's checkpoint."""
        try:
            card = read_card(self.path)
            self.best = None if card is None else card.metrics.get(self.monitor)
        except DataError:  # none, or not whole: the next epoch writes one
            self.best = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = (logs or {})[self.monitor]
        if self.best is None or score > self.best:
            self.best = score
            save_model(self.bundle(finite(logs)), self.path)


class Patience(keras.callbacks.Callback):
    """Ends the run after `epochs` without a better score."""

    def __init__(self, monitor: str, epochs: int) -> None:
        super().__init__()
        self.monitor, self.epochs = monitor, epochs
        self.best: float | None = None
        self.waited = 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], int(state["waited"])

    def on_train_begin(self, logs: Any = None) -> None:
        if self.waited >= self.epochs:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = (logs or {})[self.monitor]
        if self.best is None or score > self.best:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        if self.waited >= self.epochs:
            self.model.stop_training = True


def finite(logs: dict[str, float] | None) -> dict[str, float]:
    """The numbers that JSON can hold."""
    return {k: float(v) for k, v in (logs or {}).items() if np.isfinite(v)}
