"""Callbacks of a run: budget, validation, the best model, patience, history, progress."""

from __future__ import annotations

import csv
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keras_unet import run_layout
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import scored_classes
from keras_unet.data.samples import Sample
from keras_unet.disk import write_text
from keras_unet.errors import DataError, TrainingError, listed
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.inference.predictor import predict, to_classes
from keras_unet.models.keras_file import TrainedModel, read_card, save_model
from keras_unet.training.config import Schedule, TrainConfig
from keras_unet.training.step import FINITE

Bundle = Callable[[dict[str, float]], TrainedModel]  # the model with its scores
WARM_UP = 0.02  # share of the run, where no number of steps is given


class Budget(keras.callbacks.Callback):
    """Ends the run after `steps` or `minutes` and sets the learning rate on the way.

    The rate is `learning_rate` of the share of the budget that is used. `clock` gives
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


def learning_rate(
    peak: float,
    *,
    used: float,
    step: int,
    schedule: Schedule = "polynomial",
    warmup_steps: int | None = None,
) -> float:
    """The rate for the coming step.

    "polynomial": peak · (1 - t)^0.9 ("poly", Chen et al. 2017, DeepLab, section 4.1; nnU-Net);
    "cosine": peak · (1 + cos(π t)) / 2 (Loshchilov, Hutter 2017, equation 5, one cycle);
    "constant": peak. Before, the rate rises linearly from nearly 0 over the warm-up.

    Args:
        peak: the greatest rate.
        used: t, the share of the run that is over, by steps or by time, 0 … 1.
        step: steps done.
        schedule: which.
        warmup_steps: length of the warm-up; None: the first 2 % of the run, by `used`.
    """
    if schedule == "polynomial":
        falling = (1.0 - used) ** 0.9
    elif schedule == "cosine":
        falling = (1.0 + math.cos(math.pi * used)) / 2.0
    else:
        falling = 1.0
    rising = (used + 1e-3) / WARM_UP
    if warmup_steps is not None:
        rising = (step + 1) / (warmup_steps + 1)
    return peak * min(rising, 1.0) * falling


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
        self.path, self.monitor, self.bundle = folder / run_layout.BEST, monitor, bundle
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


class History(keras.callbacks.Callback):
    """Writes each epoch's numbers to `history.csv` and to `tensorboard/{train,validation}`.

    The CSV has 6 digits of each number. A checkpoint holds all rows, so a resumed run writes both
    anew up to there, whatever a killed process, a full disk or a power failure left of them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path, self.board = folder / run_layout.HISTORY, folder / run_layout.TENSORBOARD
        self.rows: list[dict[str, float]] = []
        self.times: list[float] = []  # when each row was written, seconds since 1970
        self._events: dict[str, Any] = {}  # TensorBoard's writers

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "times": self.times}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
        self.times = list(state["times"])

    def on_train_begin(self, logs: Any = None) -> None:
        write_text(self.path, "".join(map(self._line, range(len(self.rows)))))
        for old in self.board.glob("*/events.out.tfevents.*"):
            old.unlink()
        from tensorboard.summary import Writer

        self._events = {name: Writer(str(self.board / name)) for name in ("train", "validation")}
        for epoch in range(len(self.rows)):
            self._to_board(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        numbers = {k: v if isinstance(v, int) else float(v) for k, v in (logs or {}).items()}
        self.rows.append({"epoch": epoch, **dict(sorted(numbers.items()))})
        self.times.append(time.time())
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line(len(self.rows) - 1))
        self._to_board(len(self.rows) - 1)

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Closes TensorBoard's files."""
        for events in self._events.values():
            events.close()
        self._events = {}

    def _line(self, number: int) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), restval="", extrasaction="ignore")
        if number == 0:
            writer.writeheader()
        row = self.rows[number].items()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row})
        return text.getvalue()

    def _to_board(self, number: int) -> None:
        row, time_ = self.rows[number], self.times[number]
        for key, value in row.items():
            if key != "epoch":
                part = "validation" if key.startswith("val_") else "train"
                tag = f"epoch_{key.removeprefix('val_')}"
                self._events[part].add_scalar(tag, value, int(row["epoch"]), wall_time=time_)
        for events in self._events.values():
            events.flush()  # to the system: who looks on sees it, and a kill loses nothing


class ShowProgress(keras.callbacks.Callback):
    """One bar for the run with its loss and last validation; a line an epoch where no terminal."""

    def __init__(self, budget: Budget, console: Console) -> None:
        super().__init__()
        self.budget, self.console = budget, console
        # a bar takes standard output over, and a quiet console would keep all of it to itself
        self._shown = console.is_terminal and not console.quiet
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
        self._start, self._used = time.monotonic(), 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._start, self._used = time.monotonic(), self.budget.used
        if self._shown:
            self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._shown and self.budget.used > 0:
            used = self.budget.used
            ours = max(used - self._used, 1e-9)  # by this process; a run may be resumed
            left = (time.monotonic() - self._start) * (1 - used) / ours
            self._bar.update(
                self._task,
                completed=self.budget.used,
                description=f"step {self.budget.done} loss {float((logs or {})['loss']):.3f}",
                left=f"{left / 60:.1f} min left{self._validation}",
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        if "val_mean_dice" in logs:
            dice, error = logs["val_mean_dice"], logs["val_pixel_error"]
            self._validation = f" · validation Dice {dice:.3f}, pixel error {error:.3f}"
        if not self.console.is_terminal:
            self.console.print(
                f"{100 * self.budget.used:3.0f}% step {self.budget.done}"
                f" · loss {logs['loss']:.3f}{self._validation}",
                highlight=False,
            )

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Gives the terminal back after an interruption, when `on_train_end` isn't called."""
        if self._bar.live.is_started:  # else it would write an empty line
            self._bar.stop()
