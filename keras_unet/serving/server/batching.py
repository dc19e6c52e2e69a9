"""Batches of several clients' requests: one bounded queue, few threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_unet.serving.protocol.codes import Code, Refused, as_refused
from keras_unet.serving.server.servable import Servable
from keras_unet.serving.server.settings import Batching

# Of one run, even where batches are smaller: a request of many images is computed in parts, since a
# network's activations take hundreds of bytes a pixel.
_AT_ONCE = 1 << 19


@dataclass(eq=False)
class Task:
    """One request's run.

    `rows` None: never joined. `pixels`: what it costs, for `max_batch_pixels`. `deadline`: on
    the clock of time.monotonic.
    """

    servable: Servable
    signature: str
    outputs: tuple[str, ...]
    inputs: Sequence[np.ndarray]
    rows: int | None
    pixels: int
    deadline: float
    enqueued: float = field(default_factory=time.monotonic)
    future: Future[list[np.ndarray]] = field(default_factory=Future)

    @property
    def key(self) -> Any:
        """Equal for tasks that may be joined."""
        shapes = tuple((a.dtype.str, a.shape[1:]) for a in self.inputs)
        return id(self.servable), self.signature, self.outputs, shapes


class Scheduler:
    """Runs tasks on `num_batch_threads` threads, joined into batches where they allow it.

    Args:
        settings: sizes and times.
        observe: called after each run, with its rows, the seconds that the oldest waited, and the
            seconds computed.
    """

    def __init__(
        self, settings: Batching, observe: Callable[[int, float, float], None] | None = None
    ) -> None:
        self._settings = settings
        self._observe = observe or (lambda *_: None)
        self._most = settings.max_enqueued_batches * settings.max_batch_size
        self._queue: deque[Task] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{n}", daemon=True)
            for n in range(settings.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> Future[list[np.ndarray]]:
        """Queues a task; its future gives the outputs.

        Raises:
            Refused: RESOURCE_EXHAUSTED if the queue is full, UNAVAILABLE after `stop`.
        """
        with self._changed:
            if self._stopped:
                raise Refused(Code.UNAVAILABLE, "the server is shutting down")
            if len(self._queue) >= self._most:
                self._queue = deque(t for t in self._queue if not self._dead(t))
            if len(self._queue) >= self._most:
                raise Refused(
                    Code.RESOURCE_EXHAUSTED,
                    f"The batch scheduling queue is full: {self._most} requests wait; try later",
                )
            self._queue.append(task)
            self._changed.notify_all()
        return task.future

    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def stop(self) -> None:
        """Ends the threads after what they compute now; what waits is refused."""
        with self._changed:
            self._stopped = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for task in left:
            _fail(task, Refused(Code.UNAVAILABLE, "the server is shutting down"))
        for thread in self._threads:
            thread.join(timeout=5)

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)
            del batch  # the images must not live until the next batch comes

    def _next(self) -> list[Task]:
        """Waits for a task, and for others like it as long as the settings say."""
        with self._changed:
            while True:
                while not self._queue and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return []
                first = self._queue.popleft()
                if not self._dead(first):
                    break
            batch = [first]
            if first.rows is None:
                return batch
            until = first.enqueued + self._settings.batch_timeout_micros / 1e6
            while not self._gather(batch):
                left = until - time.monotonic()
                if left <= 0 or self._stopped:
                    break
                self._changed.wait(left)
            return batch

    def _gather(self, batch: list[Task]) -> bool:
        """Moves tasks that fit from the queue into the batch; whether the batch is full."""
        first = batch[0]
        rows = sum(task.rows or 0 for task in batch)
        pixels = sum(task.pixels for task in batch)
        most_rows, most_pixels = self._settings.max_batch_size, self._settings.max_batch_pixels
        for task in list(self._queue):
            if rows >= most_rows or pixels >= most_pixels:
                return True
            if task.rows is None or task.key != first.key:
                continue
            if rows + task.rows > most_rows or pixels + task.pixels > most_pixels:
                return True
            self._queue.remove(task)
            if not self._dead(task):
                batch.append(task)
                rows, pixels = rows + task.rows, pixels + task.pixels
        return rows >= most_rows or pixels >= most_pixels

    def _dead(self, task: Task) -> bool:
        if task.future.cancelled():
            return True
        if task.deadline <= time.monotonic():
            _fail(task, Refused(Code.DEADLINE_EXCEEDED, "Deadline Exceeded while waiting"))
            return True
        return False

    def _run(self, batch: list[Task]) -> None:
        batch = [task for task in batch if task.future.set_running_or_notify_cancel()]
        if not batch:
            return
        started = time.monotonic()
        try:
            results = self._compute(batch)
        except Exception as error:  # of one request, perhaps: the others must not suffer
            if len(batch) == 1:
                batch[0].future.set_exception(as_refused(error))
                return
            for task in batch:
                try:
                    task.future.set_result(self._compute([task])[0])
                except Exception as its:
                    task.future.set_exception(as_refused(its))
            return
        rows = sum(task.rows or 1 for task in batch)
        self._observe(rows, started - batch[0].enqueued, time.monotonic() - started)
        for task, result in zip(batch, results, strict=True):
            task.future.set_result(result)

    def _compute(self, batch: list[Task]) -> list[list[np.ndarray]]:
        first = batch[0]
        seconds = max(task.deadline for task in batch) - time.monotonic()
        if first.rows is None:
            return [first.servable.run(first.signature, first.inputs, first.outputs, seconds)]
        most = self._most_rows(first)
        if first.rows > most:  # alone, then
            parts = [self._compute([_part(first, n, most)])[0] for n in range(0, first.rows, most)]
            return [[np.concatenate(pieces) for pieces in zip(*parts, strict=True)]]
        sizes = [task.rows or 0 for task in batch]
        pad = self._padding(sum(sizes))
        joined = list(first.inputs)
        if len(batch) > 1 or pad:
            joined = [_join(parts, pad) for parts in zip(*(t.inputs for t in batch), strict=True)]
        outputs = first.servable.run(first.signature, joined, first.outputs, seconds)
        if len(batch) == 1 and not pad:
            return [outputs]
        ends = np.cumsum(sizes)
        return [
            [output[end - size : end] for output in outputs]
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _most_rows(self, task: Task) -> int:
        """Images of one run: as many as a batch holds, or as `_AT_ONCE` does; at least one."""
        each = max(1, task.pixels // (task.rows or 1))
        pixels = max(self._settings.max_batch_pixels, _AT_ONCE)
        return max(1, min(self._settings.max_batch_size, pixels // each))

    def _padding(self, rows: int) -> int:
        """Rows to add up to the next allowed batch size."""
        return min((n - rows for n in self._settings.allowed_batch_sizes if n >= rows), default=0)


def _part(task: Task, start: int, rows: int) -> Task:
    inputs = [array[start : start + rows] for array in task.inputs]
    rows = inputs[0].shape[0]
    pixels = task.pixels * rows // (task.rows or 1)
    return replace(task, inputs=inputs, rows=rows, pixels=pixels)


def _join(parts: Sequence[np.ndarray], pad: int) -> np.ndarray:
    return np.concatenate([*parts, *([parts[-1][-1:]] * pad)])


def _fail(task: Task, error: Refused) -> None:
    if task.future.set_running_or_notify_cancel():
        task.future.set_exception(error)
