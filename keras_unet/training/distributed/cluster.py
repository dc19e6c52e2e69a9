"""Cluster: the devices and machines that train one network together, and what they exchange."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet.errors import ConfigError, TrainingError
from keras_unet.machine import Devices, read_cluster

STATUS = 3  # numbers: the chief's seconds, and how many were asked to end by SIGINT, by SIGTERM

# what TensorFlow raises where another machine is gone
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class Cluster:
    """This process among the machines that train together; alone unless `join` finds others.

    All machines get the sum of their statuses in the same step, so that all do the same: the clock
    is the chief's, and a signal to any of them ends the run on all.

    As a context, it makes of a machine that is lost a TrainingError that says which.

    Attributes:
        strategy: None for one device.
        machines, rank: how many processes, and which of them this is; 0 is the chief.
        asked: the number of the signal that asked this process to end, or None.
        signal: the number of the signal that ends the run on all machines, or None.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, machines: int = 1, rank: int = 0
    ) -> None:
        self.strategy, self.machines, self.rank = strategy, machines, rank
        self.asked: Callable[[], int | None] = lambda: None
        self.signal: int | None = None
        self._start, self._seconds = time.monotonic(), 0.0

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.machines > 1 and isinstance(error, LOST):
            found = re.search(r"aborted by: (.*)", str(error))  # the line that says who is gone
            reason = found[1] if found else f"{type(error).__name__} {error}"
            raise TrainingError(
                f"machine {self.rank} of {self.machines}: another machine of this run is gone "
                f"({reason[:300]}). Start all of them again: "
                "keras-unet train --resume with the run's folder goes on from its last checkpoint"
            ) from error

    @property
    def chief(self) -> bool:
        """Does this process validate, write checkpoints and decide?"""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """Devices in all; each takes an equal share of a batch."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        """Devices of this machine."""
        return self.replicas // self.machines

    def replica(self) -> int:
        """Which of all devices this is, in a step; 0 for one device."""
        if self.strategy is None:
            return 0
        context = tf.distribute.get_replica_context()
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    def clock(self) -> float:
        """Seconds, the same on all machines until the next exchange."""
        return time.monotonic() if self.machines == 1 else self._seconds

    # what machines agree on between two steps

    def begin(self, asked: Callable[[], int | None]) -> None:
        """A run's steps begin: together, by the same clock. asked: see the attribute."""
        self.asked, self.signal = asked, None
        self.agree()

    def status(self) -> np.ndarray:
        """This machine's part of the sum that all get, [STATUS] float32."""
        number = self.asked()
        seconds = time.monotonic() - self._start if self.chief else 0.0
        asked = (number == signal.SIGINT, number == signal.SIGTERM)
        return np.array([seconds, *asked], np.float32)

    def update(self, total: np.ndarray) -> None:
        """Takes in the sum of all statuses."""
        self._seconds = float(total[0])
        if total[2]:
            self.signal = int(signal.SIGTERM)
        elif total[1]:
            self.signal = int(signal.SIGINT)

    def agree(self, stop: bool = False) -> bool:
        """Waits for all machines; whether the chief wants to stop."""
        if self.machines == 1:
            return stop
        total = self.all_reduce(np.array([*self.status(), stop and self.chief], np.float32))
        self.update(total[:STATUS])
        return bool(total[STATUS])

    def check(self, model: Any, epoch_over: bool) -> int | None:
        """Between two steps, after an epoch or before the first step: the signal that ends the run.

        The same on all machines, as is `model.stop_training` after an epoch.
        """
        if self.machines == 1:
            return self.asked()
        if epoch_over:
            model.stop_training = self.agree(model.stop_training)
        return self.signal

    def leave(self) -> None:
        """The steps end here by a signal; tells the others, who may not have got it."""
        if self.signal is None:
            self.agree()

    # collectives

    def barrier(self) -> None:
        """After a run's last message: no process ends before all have got it."""
        with contextlib.suppress(*LOST):  # who is gone by now had got it
            self.agree()

    def broadcast(self, data: bytes = b"") -> bytes:
        """The chief's bytes, on every machine."""
        if self.machines == 1:
            return data
        data = data if self.chief else b""
        length = int(self.all_reduce(np.array([len(data)], np.int32))[0])
        if length == 0:  # TensorFlow 2.21 crashes over a sum of nothing
            return b""
        words = np.zeros(-(-length // 4), np.int32)  # collectives sum no bytes
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return self.all_reduce(words).tobytes()[:length]

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """The sum of all machines' values [N]."""
        return _sum_function(self.strategy, str(values.dtype))(values).numpy()


@functools.cache
def _sum_function(strategy: tf.distribute.Strategy, dtype: str) -> Any:
    local = len(strategy.extended.worker_devices)

    def own(values: tf.Tensor) -> tf.Tensor:  # a machine counts once, however many devices it has
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return values * tf.cast(place % local == 0, values.dtype)

    @tf.function(input_signature=[tf.TensorSpec([None], dtype)])
    @tf.autograph.experimental.do_not_convert
    def total(values: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(own, args=(values,)), axis=None)

    return total


def join(devices: Devices) -> Cluster:
    """The devices that train, by the setting and by TF_CONFIG.

    Machines have to meet before TensorFlow computes anything in this process. A process meets the
    others once, and takes part in each run from then on.

    Args:
        devices: "auto": the machines in TF_CONFIG, each with all its GPUs; one device where it
            names none beside this. "all": also the GPUs of a machine that is alone. "one": one
            device, whatever TF_CONFIG says.

    Raises:
        ConfigError: TF_CONFIG cannot be used, or TensorFlow had already begun to compute.
    """
    if devices == "one":
        return Cluster()
    workers, rank = read_cluster(os.environ.get("TF_CONFIG", ""))
    if workers > 1:
        return _meet(os.environ["TF_CONFIG"], workers, rank)
    if devices == "all":
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(found) > 1:
            return Cluster(_mirrored(tuple(device.name for device in found)))
    return Cluster()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy for all runs of a process: a second one would number its exchanges anew, and
    TensorFlow takes an exchange of another kind under a used number for an error."""
    return tf.distribute.MirroredStrategy(list(devices))


@functools.cache
def _meet(text: str, machines: int, rank: int) -> Cluster:
    del text  # a process can meet one cluster only
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ConfigError(
            "TF_CONFIG names several machines, but TensorFlow had begun to compute in this process "
            f"before they could meet ({error}): train in a process of its own, or set devices=one"
        ) from error
    return Cluster(strategy, machines, rank)
