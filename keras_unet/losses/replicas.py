"""Sums over the devices of a `tf.distribute` strategy, for losses that are no mean over images."""

from __future__ import annotations

from typing import Any

import keras


def count() -> int:
    """Devices that compute this loss together, each on its share of the batch."""
    context = _context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def totals(*parts: Any) -> tuple[Any, ...]:
    """The sum of each part over them, in one exchange and with its gradient; all of one shape."""
    context = _context()
    if context is None or context.num_replicas_in_sync == 1:
        return parts
    summed = context.all_reduce("SUM", keras.ops.stack(parts))
    return tuple(summed[i] for i in range(len(parts)))


def _context() -> Any:
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
