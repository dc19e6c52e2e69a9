"""One loaded SavedModel: the graph and session that TensorFlow Serving would make of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.serving.folders import WARMUP
from keras_unet.serving.protocol.codes import Code, Refused, as_refused

MOST_WARMUP = 1000  # as TensorFlow Serving
_SERVE = "serve"


class Servable:
    """A SavedModel in a session of its own; thread-safe.

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
