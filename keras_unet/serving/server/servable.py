"""Servable: one loaded SavedModel, and the life of a served version of a model.

It is loaded into the graph and session that TensorFlow Serving would make of it; a version keeps it
for those who use it, and frees it when the last one leaves.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.serving.folders import WARMUP
from keras_unet.serving.protocol.codes import Code, Refused, as_refused
from keras_unet.serving.protocol.objects import OBJECTS
from keras_unet.serving.server.object_signature import object_signature

MOST_WARMUP = 1000  # as TensorFlow Serving
_SERVE = "serve"
_MOST = 10_000  # files of a version that are looked at
Stamp = frozenset[tuple[str, int, int, int]]


class Servable:
    """A SavedModel in a session of its own; thread-safe.

    Where its model answers objects, `signatures` has one more than the graph, `OBJECTS`.

    Args:
        folder: the version's folder.
        intra_op_threads, inter_op_threads: TensorFlow's, the process's first session decides;
            0 is one a core.

    Raises:
        Refused: it does not load; TensorFlow's code and message.
    """

    def __init__(
        self, folder: Path, *, intra_op_threads: int = 0, inter_op_threads: int = 0
    ) -> None:
        import tensorflow as tf

        v1 = tf.compat.v1
        graph = tf.Graph()
        config = v1.ConfigProto(
            intra_op_parallelism_threads=intra_op_threads,
            inter_op_parallelism_threads=inter_op_threads,
        )
        config.gpu_options.allow_growth = True
        self.folder = folder
        self._session = v1.Session(graph=graph, config=config)
        self._run_options = v1.RunOptions
        try:
            with graph.as_default():
                loaded = v1.saved_model.load(self._session, [_SERVE], str(folder))
        except Exception as error:  # whatever a broken folder makes TensorFlow raise
            self._session.close()
            raise as_refused(error) from error
        self.signatures: dict[str, Any] = {
            name: signature
            for name, signature in loaded.signature_def.items()
            if not name.startswith("__")
        }
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., list[Any]]] = {}
        self._lock = threading.Lock()
        try:
            self._objects = object_signature(self.signatures, self.run)
        except Exception as error:  # of the graph, which is no better than one that does not load
            self._session.close()
            raise as_refused(error) from error
        if self._objects is not None:
            self.signatures[OBJECTS] = self._objects.definition

    def run(
        self,
        signature: str,
        inputs: Sequence[np.ndarray],
        outputs: tuple[str, ...],
        seconds: float,
    ) -> list[np.ndarray]:
        """Computes `outputs` of a signature.

        Args:
            signature: its name.
            inputs: one array an input, in the order of their sorted names.
            outputs: their names in the signature; only what they need is computed.
            seconds: after them TensorFlow gives up between two operations.

        Raises:
            tf.errors.OpError, Refused: as the graph says.
        """
        if signature == OBJECTS and self._objects is not None:
            return self._objects(inputs[0], seconds)
        options = self._run_options(timeout_in_ms=max(1, int(seconds * 1000)))
        try:
            return self._callable(signature, outputs)(*inputs, options=options)
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes bytes of the request; its code is lost on the way
            message = bytes(error.object).decode("utf-8", "replace")
            raise Refused(Code.INVALID_ARGUMENT, message) from None

    def close(self) -> None:
        """Frees the session's variables; no run may be under way."""
        self._callables.clear()
        self._session.close()

    def warm_up(self, run: Callable[[Any], None]) -> int:
        """Calls `run` with each PredictRequest of the warm-up file; returns how many.

        Raises:
            Refused: the file is damaged, or a request fails.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import prediction_log_pb2

        file = self.folder / WARMUP
        if not file.is_file():
            return 0
        count = 0
        try:
            for record in tf.data.TFRecordDataset([str(file)]).as_numpy_iterator():
                if count == MOST_WARMUP:
                    break
                log = prediction_log_pb2.PredictionLog.FromString(record)
                if log.WhichOneof("log_type") == "predict_log":
                    run(log.predict_log.request)
                    count += 1
        except Exception as error:
            refused = as_refused(error)
            message = f"warm-up request {count + 1}: {refused.message}"
            raise Refused(refused.code, message) from error
        return count

    def _callable(self, signature: str, outputs: tuple[str, ...]) -> Callable[..., list[Any]]:
        key = signature, outputs
        with self._lock:
            if key not in self._callables:
                definition = self.signatures[signature]
                self._callables[key] = self._session.make_callable(
                    [definition.outputs[name].name for name in outputs],
                    [definition.inputs[name].name for name in sorted(definition.inputs)],
                    accept_options=True,
                )
            return self._callables[key]


class State(enum.IntEnum):
    """ModelVersionStatus.State of TensorFlow Serving."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Version:
    """A version's life: START, LOADING, AVAILABLE, UNLOADING (drains), END. Thread-safe."""

    def __init__(self, model: str, number: int, folder: Path) -> None:
        self.model = model
        self.number = number
        self.folder = folder
        self.state = State.START
        self.error: Refused | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.tried: Stamp = frozenset()  # its folder when it was loaded last
        self.seen: Stamp = frozenset()  # and when it was looked at last
        self._servable: Servable | None = None
        self._users = 0
        self._lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def servable(self) -> Servable:
        """What was loaded; only between `enter` and `leave`."""
        assert self._servable is not None
        return self._servable

    def status(self) -> tuple[int, State, Code, str]:
        """(number, state, error code, error message)."""
        error = self.error
        return (
            self.number,
            self.state,
            error.code if error else Code.OK,
            error.message if error else "",
        )

    def loading(self) -> None:
        self.tried = self.seen = stamp(self.folder)
        self.state, self.error = State.LOADING, None
        self.ended.clear()

    def loaded(self, servable: Servable) -> None:
        with self._lock:
            self._servable = servable
            self.state = State.AVAILABLE

    def failed(self, error: Refused, retry_at: float) -> None:
        self.failures += 1
        self.retry_at = retry_at
        self.error = error
        self.state = State.END
        self.ended.set()

    def changed(self, folder: Path) -> bool:
        """Whether its folder is another than was tried, and has come to rest: not while copied."""
        before, self.seen = self.seen, stamp(folder)
        if self.seen == self.tried:
            return False
        self.failures = 0
        return self.seen == before

    def reset_failures(self) -> None:
        """Its folder is gone: one that comes in its place has not been tried."""
        self.failures, self.retry_at = 0, 0.0

    def enter(self) -> bool:
        """Takes a place among its users, if it is available."""
        with self._lock:
            if self.state is not State.AVAILABLE:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0 and self.state is State.UNLOADING
        if last:
            self._end()

    def retire(self) -> None:
        """No new users; ends when the present ones have left."""
        with self._lock:
            if self.state is not State.AVAILABLE:
                return
            self.state = State.UNLOADING
            empty = self._users == 0
        if empty:
            self._end()

    def _end(self) -> None:
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()
        self.state = State.END
        self.ended.set()


def stamp(folder: Path) -> Stamp:
    """(path, size, time of change, inode) of a folder's files: unequal if anything was replaced."""
    found = set()
    with contextlib.suppress(OSError):  # gone meanwhile: it is looked at again
        for path in itertools.islice(folder.rglob("*"), _MOST):
            one = path.stat()
            found.add((str(path), one.st_size, one.st_mtime_ns, one.st_ino))
    return frozenset(found)
