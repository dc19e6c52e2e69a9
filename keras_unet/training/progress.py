"""What a person sees of a run while it goes on."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keras_unet.training.callbacks import Budget


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
        self._start, self._used = time.monotonic(), 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._start, self._used = time.monotonic(), self.budget.used
        if self.console.is_terminal:
            self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.console.is_terminal and self.budget.used > 0:
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
