"""Objects over the wire: how a model finds them, and the probabilities that they are found in.

A watershed is none of TensorFlow's operations, so the graph of an instance model says how its
objects are found (signature `decoding`) and gives probabilities of 16 bits; the embedded server and
the client find the objects in them. Without TensorFlow.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from keras_unet.models.decoding import Decoding
from keras_unet.settings import validated

DECODING = "decoding"  # the signature that says how objects are found
PROBABILITIES = "segment_bytes_probabilities"
OBJECTS = "segment_bytes_objects"  # of the embedded server
FULL = 65535  # the share that is a probability of 1; and the most objects that a PNG can number


def decoding_tensors(decoding: Decoding) -> dict[str, np.generic | bytes]:
    """What the signature `decoding` answers, each for one image: float64, int32 or a string."""
    given = decoding.model_dump(exclude={"fitted_on"})
    return {name: _tensor(value) for name, value in given.items()}


def _tensor(value: float | str) -> np.generic | bytes:
    if isinstance(value, str):
        return value.encode()
    return np.float64(value) if isinstance(value, float) else np.int32(value)


def decoding_of_answer(outputs: Mapping[str, np.ndarray]) -> Decoding:
    """The settings in an answer of the signature `decoding`, the first of each.

    Raises:
        ConfigError: they are none of `Decoding`, or of a newer version of this package.
    """
    given = {name: values.ravel()[0] for name, values in outputs.items()}
    plain = {
        name: one.decode("utf-8", "replace") if isinstance(one, bytes) else one.item()
        for name, one in given.items()
    }
    return validated(Decoding, plain, f"signature {DECODING}")


def last_below(threshold: float) -> int:
    """The largest share, of 65535, whose probability is not above a threshold in [0, 1].

    The graph keeps a foreground's share on the side of the threshold that its probability is on, so
    that objects are those of the probabilities themselves.
    """
    probabilities = to_probabilities(np.arange(FULL + 1))
    return int(np.searchsorted(probabilities, np.float32(threshold), side="right")) - 1


def to_probabilities(shares: np.ndarray) -> np.ndarray:
    """What shares mean, integers 0 to 65535 of any shape: float32."""
    return shares.astype(np.float32) / np.float32(FULL)


def find(probability_bytes: np.ndarray, decoding: Decoding) -> np.ndarray:
    """The objects of an image, int32 [H, W], from the PNGs of its classes, bytes [K]."""
    from keras_unet.inference.objects.finding import to_instances

    last = Image.open(io.BytesIO(probability_bytes[-1]), formats=("PNG",))
    return to_instances(to_probabilities(np.asarray(last)), **decoding.arguments)
