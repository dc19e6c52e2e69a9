"""Threefry-2x32 with 20 rounds: random bits as a pure function of (key, counter), on any device.

It uses nothing but 32-bit integers, and works on any shape at once.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and the
known-answer vectors of its reference implementation (Random123), which the tests repeat.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Tensor = Any

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor], bitwise: Any
) -> tuple[Tensor, Tensor]:
    """Two words of random bits for each (key, counter).

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors; all four broadcast against each other.
        bitwise: what has `left_shift`, `right_shift`, `bitwise_or` and `bitwise_xor` for these
            tensors: `tf.bitwise`, `keras.ops` or `numpy`.

    Returns:
        Two uint32 tensors of the broadcast shape.
    """

    def rotate_left(x: Tensor, by: int) -> Tensor:
        left = bitwise.left_shift(x, np.uint32(by))
        return bitwise.bitwise_or(left, bitwise.right_shift(x, np.uint32(32 - by)))

    parity = bitwise.bitwise_xor(bitwise.bitwise_xor(key[0], key[1]), _PARITY)
    keys = (key[0], key[1], parity)
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for by in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = bitwise.bitwise_xor(rotate_left(x1, by), x0)
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1
