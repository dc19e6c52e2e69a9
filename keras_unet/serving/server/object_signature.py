"""Object signature: what no graph can answer, numbered objects, computed after the graph."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_unet.errors import ConfigError
from keras_unet.models.decoding import Decoding
from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.protocol.objects import (
    DECODING,
    FULL,
    OBJECTS,
    PROBABILITIES,
    decoding_of_answer,
    find,
)
from keras_unet.serving.protocol.tensors import STRING

_SECONDS = 60.0  # to say how objects are found
# (signature, inputs, outputs, seconds) -> outputs, as `Servable.run`
Run = Callable[[str, Sequence[np.ndarray], tuple[str, ...], float], list[np.ndarray]]


class ObjectSignature:
    """`segment_bytes_objects(image_bytes)` -> `label_bytes`: string [B], grey PNGs of 16 bits.

    0 is background, objects have 1, 2, … as `keras_unet.segment` numbers them. Its images are
    computed one after the other, so that memory and overtime are those of one.

    Args:
        decoding: how they are found.
        run: computes the graph's signatures.
        probabilities: the definition of `segment_bytes_probabilities`, whose inputs these are.
    """

    def __init__(self, decoding: Decoding, run: Run, probabilities: Any) -> None:
        self._decoding = decoding
        self._run = run
        self.definition = type(probabilities)()
        self.definition.CopyFrom(probabilities)
        self.definition.outputs.clear()
        answer = self.definition.outputs["label_bytes"]
        answer.name, answer.dtype = f"{OBJECTS}:0", STRING
        answer.tensor_shape.dim.add().size = -1

    def __call__(self, image_bytes: np.ndarray, seconds: float) -> list[np.ndarray]:
        """[label_bytes] of strings [B].

        Raises:
            Refused: the time is up, or an image has more objects than the format can number.
            tf.errors.OpError: as the graph says.
        """
        until, labels = time.monotonic() + seconds, np.empty(len(image_bytes), object)
        for number in range(len(labels)):
            (shares,) = self._run(
                PROBABILITIES,
                [image_bytes[number : number + 1]],
                ("probability_bytes",),
                _left(until, number, len(labels)),
            )
            _left(until, number, len(labels))
            labels[number] = _png(find(shares[0], self._decoding))
        return [labels]


def object_signature(signatures: Mapping[str, Any], run: Run) -> ObjectSignature | None:
    """The signature of a graph whose model says how its objects are found; None for others.

    Args:
        signatures: the graph's, SignatureDefs by their names. run: computes them.
    """
    stated, probabilities = signatures.get(DECODING), signatures.get(PROBABILITIES)
    if stated is None or probabilities is None or OBJECTS in signatures:
        return None
    # another program may mean something else by it, and a newer one knows other settings
    if set(stated.inputs) != {"request"} or not set(stated.outputs) <= set(Decoding.model_fields):
        return None
    names = tuple(sorted(stated.outputs))
    answer = run(DECODING, [np.zeros(1, np.int32)], names, _SECONDS)
    try:
        decoding = decoding_of_answer(dict(zip(names, answer, strict=True)))
    except ConfigError:
        return None
    return ObjectSignature(decoding, run, probabilities)


def _left(until: float, done: int, count: int) -> float:
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise Refused(
            Code.DEADLINE_EXCEEDED, f"objects of {done} of {count} images found when time was up"
        )
    return seconds


def _png(labels: np.ndarray) -> bytes:
    count = int(labels.max(initial=0))
    if count > FULL:
        raise Refused(
            Code.OUT_OF_RANGE,
            f"an image has {count} objects; a PNG of 16 bits can number {FULL}: find them in the "
            f"probabilities ({PROBABILITIES}), as keras_unet's client does",
        )
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()
