"""Predictor: what gRPC and REST do with a request: version, inputs, queue, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from keras_unet.serving.protocol.codes import Code, Refused, invalid, too_large
from keras_unet.serving.protocol.objects import OBJECTS
from keras_unet.serving.protocol.tensors import to_array, type_name
from keras_unet.serving.server import limits as pixels
from keras_unet.serving.server.batching import Scheduler, Task
from keras_unet.serving.server.limits import Limits
from keras_unet.serving.server.manager import Manager
from keras_unet.serving.server.servable import Servable, Version

DEFAULT = "serving_default"
_THREADS = 4  # that read requests and write answers; the scheduler's compute


class Prediction(NamedTuple):
    """A request's outputs, and who computed them."""

    model: str
    version: int
    signature: str
    outputs: dict[str, np.ndarray]


class Predictor:
    """Predicts for both protocols; `decode` and what encodes run beside the event loop."""

    def __init__(self, manager: Manager, scheduler: Scheduler, limits: Limits) -> None:
        self.manager = manager
        self._scheduler = scheduler
        self._limits = limits
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="codec")

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a thread, so that the event loop can serve others."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def predict(
        self,
        spec: Any,
        decode: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
        output_filter: Sequence[str] = (),
        seconds: float | None = None,
    ) -> Prediction:
        """Answers one request.

        Args:
            spec: its ModelSpec: name, version or label, signature.
            decode: {input: TensorInfo} of the signature -> {input: array}.
            output_filter: the outputs wanted; empty: all.
            seconds: the client's deadline, if it has one.

        Raises:
            Refused: with TensorFlow Serving's code and wording.
        """
        seconds = min(self._limits.seconds, seconds or self._limits.seconds)
        deadline = time.monotonic() + seconds
        with self.using(spec) as version:
            name = spec.signature_name or DEFAULT
            definition = version.servable.signatures.get(name)
            if definition is None:
                raise Refused(
                    Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
                )
            outputs = _wanted(definition, output_filter)
            task = await self.aside(self._task, version.servable, name, outputs, decode, deadline)
            future = self._scheduler.submit(task)
            try:
                arrays = await asyncio.wait_for(
                    asyncio.wrap_future(future), max(0.0, deadline - time.monotonic())
                )
            except asyncio.TimeoutError:
                raise Refused(Code.DEADLINE_EXCEEDED, f"not done in {seconds:.3g} s") from None
            named = dict(zip(outputs, arrays, strict=True))
            return Prediction(version.model, version.number, name, named)

    @contextmanager
    def using(self, spec: Any) -> Iterator[Version]:
        """The version that a ModelSpec means, for as long as the block runs."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number = spec.version.value if spec.HasField("version") else None
        version = self.manager.acquire(spec.name, number, spec.version_label)
        try:
            yield version
        finally:
            version.leave()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _task(
        self,
        servable: Servable,
        name: str,
        outputs: tuple[str, ...],
        decode: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
        deadline: float,
    ) -> Task:
        definition = servable.signatures[name]
        inputs = decode(definition.inputs)
        for key, info in definition.inputs.items():
            _check_shape(key, inputs[key], info)
            if inputs[key].ndim and inputs[key].shape[0] > self._limits.rows:
                raise too_large(
                    f"input {key!r}: {inputs[key].shape[0]} images; at most {self._limits.rows} "
                    "are accepted in one request"
                )
        area = pixels.count_pixels(inputs, self._limits.pixels)
        if name == OBJECTS:
            pixels.check_each(inputs, self._limits.object_pixels)
        arrays = [inputs[key] for key in sorted(definition.inputs)]
        return Task(
            servable,
            name,
            outputs,
            arrays,
            rows=_joinable_rows(definition, arrays),
            pixels=area,
            deadline=deadline,
        )


def warm_up(servable: Servable, request: Any, most_bytes: int, seconds: float) -> None:
    """Runs one PredictRequest of a warm-up file, without the queue."""
    name = request.model_spec.signature_name or DEFAULT
    definition = servable.signatures[name]
    inputs = decode_protos(request.inputs, definition.inputs, most_bytes)
    arrays = [inputs[key] for key in sorted(inputs)]
    servable.run(name, arrays, tuple(sorted(definition.outputs)), seconds)


def decode_protos(
    given: Mapping[str, Any], infos: Mapping[str, Any], most_bytes: int
) -> dict[str, np.ndarray]:
    """The arrays of a PredictRequest.

    Raises:
        Refused: other inputs than the signature's, or tensors that do not fit them.
    """
    sent, needed = set(given), set(infos)
    if sent != needed:
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(needed)} "
            f"len({{{_names(sent)}}}) != len({{{_names(needed)}}}). "
            f"Sent extra: {{{_names(sent - needed)}}}. "
            f"Missing but required: {{{_names(needed - sent)}}}."
        )
    return {key: to_array(key, given[key], infos[key].dtype, most_bytes) for key in infos}


def _names(names: set[str]) -> str:
    return ",".join(sorted(names))


def _wanted(definition: Any, output_filter: Sequence[str]) -> tuple[str, ...]:
    known = sorted(definition.outputs)
    if not output_filter:
        return tuple(known)
    for place, name in enumerate(output_filter):
        if name not in known:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(known)}}}."
            )
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return tuple(sorted(output_filter))  # one callable for each set of them, in whatever order


def _check_shape(name: str, array: np.ndarray, info: Any) -> None:
    if info.tensor_shape.unknown_rank:
        return
    expected = [dim.size for dim in info.tensor_shape.dim]
    fits = len(expected) == array.ndim and all(
        size in (-1, found) for size, found in zip(expected, array.shape, strict=True)
    )
    if not fits:
        raise invalid(
            f"input {name!r}: expected {type_name(info.dtype)} of shape "
            f"{['?' if n < 0 else n for n in expected]}, found shape {list(array.shape)}"
        )


def _joinable_rows(definition: Any, arrays: Sequence[np.ndarray]) -> int | None:
    """The batch size, if this request may be computed together with others."""
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    open_batch = all(i.tensor_shape.dim and i.tensor_shape.dim[0].size == -1 for i in infos)
    images = all(array.dtype.kind == "f" and array.ndim == 4 for array in arrays)
    if not (open_batch and images):
        return None
    rows = {array.shape[0] for array in arrays}
    return rows.pop() if len(rows) == 1 and 0 not in rows else None


def status_response(manager: Manager, spec: Any) -> Any:
    """GetModelStatusResponse for a ModelSpec.

    Raises:
        Refused: no such model, version or label.
    """
    number = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state, code, message in manager.status(spec.name, number, spec.version_label):
        one = response.model_version_status.add()
        one.version = version
        one.state = state.value
        one.status.error_code = code.value
        one.status.error_message = message
    return response


def metadata_response(version: Version) -> Any:
    """GetModelMetadataResponse with the signatures of a version in use."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in version.servable.signatures.items():
        signatures.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    response.metadata["signature_def"].Pack(signatures)
    return response
