"""Cluster: the devices and machines that train one network together, and what they exchange."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet.errors import ConfigError
from keras_unet.machine import Devices, read_cluster
from keras_unet.training.interruption import Interrupted

WORDS = 3  # seconds of the first machine, and how many were asked to end by SIGINT, by SIGTERM

# what TensorFlow raises where another machine is gone
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def reason(error: Exception) -> str:
    """The line of TensorFlow's message that says who is gone."""
    found = re.search(r"aborted by: (.*)", str(error))
    return found[1][:300] if found else f"{type(error).__name__} {error}"[:300]


class Team:
    """This process among the machines that train together; alone unless `join` finds others.

    What one machine says all hear in the same step, so that all do the same: the clock is that of
    the first machine, and a signal to any of them ends the run on all.

    Attributes:
        strategy: None for one device.
        machines, rank: how many processes, and which of them this is; 0 is the chief.
        asked: the number of the signal that asked this process to end, or None.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, machines: int = 1, rank: int = 0
    ) -> None:
        self.strategy, self.machines, self.rank = strategy, machines, rank
        self.asked: Callable[[], int | None] = lambda: None
        self.heard: int | None = None
        self._start, self._seconds = time.monotonic(), 0.0

    @property
    def chief(self) -> bool:
        """Does this process validate, write checkpoints and decide?"""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """Devices in all; each takes an equal share of a batch."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    @property
    def local(self) -> int:
        """Devices of this machine."""
        return self.replicas // self.machines

    def place(self) -> int:
        """Which of all devices this is, in a step; 0 for one device."""
        if self.strategy is None:
            return 0
        context = tf.distribute.get_replica_context()
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    def clock(self) -> float:
        """Seconds, the same on all machines until they speak the next time."""
        return time.monotonic() if self.machines == 1 else self._seconds

    def say(self) -> np.ndarray:
        """What this process adds to what all hear, [WORDS] float32."""
        number = self.asked()
        seconds = time.monotonic() - self._start if self.chief else 0.0
        asked = (number == signal.SIGINT, number == signal.SIGTERM)
        return np.array([seconds, *asked], np.float32)

    def hear(self, words: np.ndarray) -> None:
        """Takes in the sum of what all said."""
        self._seconds = float(words[0])
        if words[2]:
            self.heard = int(signal.SIGTERM)
        elif words[1]:
            self.heard = int(signal.SIGINT)

    def agree(self, stop: bool = False) -> bool:
        """Waits for all machines; whether the chief says to stop."""
        if self.machines == 1:
            return stop
        words = self._total(np.array([*self.say(), stop and self.chief], np.float32))
        self.hear(words[:WORDS])
        return bool(words[WORDS])

    def begin(self, asked: Callable[[], int | None]) -> None:
        """A run's steps begin: together, by the same clock."""
        self.asked, self.heard = asked, None
        self.agree()

    def rest(self, model: Any, epoch_over: bool) -> None:
        """Between two steps, after an epoch or before the first step.

        Raises `Interrupted` on all machines or on none.
        """
        if self.machines > 1 and epoch_over:
            model.stop_training = self.agree(model.stop_training)
        number = self.heard if self.machines > 1 else self.asked()
        if number is not None:
            raise Interrupted(number)

    def leave(self) -> None:
        """The steps end here by a signal; tells the others, who may not have heard of it."""
        if self.heard is None:
            self.agree()

    def part(self) -> None:
        """After a run's last words: none ends its process before all have heard them."""
        with contextlib.suppress(*LOST):  # who is gone by now had heard them
            self.agree()

    def share(self, data: bytes = b"") -> bytes:
        """The chief's bytes, on every machine."""
        if self.machines == 1:
            return data
        data = data if self.chief else b""
        length = int(self._total(np.array([len(data)], np.int32))[0])
        if length == 0:  # TensorFlow 2.21 crashes over a sum of nothing
            return b""
        words = np.zeros(-(-length // 4), np.int32)  # collectives sum no bytes
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return self._total(words).tobytes()[:length]

    def _total(self, values: np.ndarray) -> np.ndarray:
        return _sum_function(self.strategy, str(values.dtype))(values).numpy()


@functools.cache
def _sum_function(strategy: tf.distribute.Strategy, dtype: str) -> Any:
    local = len(strategy.extended.worker_devices)

    def own(values: tf.Tensor) -> tf.Tensor:  # a machine speaks once, however many devices it has
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return values * tf.cast(place % local == 0, values.dtype)

    @tf.function(input_signature=[tf.TensorSpec([None], dtype)])
    @tf.autograph.experimental.do_not_convert
    def total(values: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(own, args=(values,)), axis=None)

    return total


def join(devices: Devices) -> Team:
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
        return Team()
    workers, rank = read_cluster(os.environ.get("TF_CONFIG", ""))
    if workers > 1:
        return _meet(os.environ["TF_CONFIG"], workers, rank)
    if devices == "all":
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(found) > 1:
            return Team(_mirrored(tuple(device.name for device in found)))
    return Team()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy for all runs of a process: a second one would number its exchanges anew, and
    TensorFlow takes an exchange of another kind under a used number for an error."""
    return tf.distribute.MirroredStrategy(list(devices))


@functools.cache
def _meet(text: str, machines: int, rank: int) -> Team:
    del text  # a process can meet one cluster only
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ConfigError(
            "TF_CONFIG names several machines, but TensorFlow had begun to compute in this process "
            f"before they could meet ({error}): train in a process of its own, or set devices=one"
        ) from error
    return Team(strategy, machines, rank)
