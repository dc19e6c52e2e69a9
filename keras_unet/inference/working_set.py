"""How much memory a tile takes, and how much there is."""

from __future__ import annotations

import os
from pathlib import Path

import keras

from keras_unet.models.unet import Structure

# Measured peak over counted tensors, see tests/inference/test_planning.py: buffers of oneDNN
# and what the allocator keeps.
SLACK = 1.7
SHARE = 0.5  # of the free memory: others on the machine take some too


def network_bytes(network: keras.Model, form: Structure, tile: tuple[int, int]) -> int:
    """Bytes of the activations that are alive together when one tile is computed.

    Counted from the architecture: at each step the step's input, its output and the skip
    connections that are still to be used.
    """
    first = next(layer for layer in network.layers if layer.name == "down1_conv1")
    filters = getattr(first, "filters", 1)
    itemsize = 2 if "16" in first.compute_dtype else 4
    shrink = 2 if form.padding == "valid" else 0
    height, width = tile
    skips: list[int] = []
    peak, channels = 0, form.channels
    for level in range(form.depth):
        own = filters * 2**level
        for _ in range(2):
            taken = height * width * channels
            height, width, channels = height - shrink, width - shrink, own
            peak = max(peak, sum(skips) + taken + height * width * own)
        skips.append(height * width * own)
        height, width = -(-height // 2), -(-width // 2)
    for level in reversed(range(form.depth)):
        own = filters * 2**level
        height, width = 2 * (height - 2 * shrink), 2 * (width - 2 * shrink)
        skips.pop()  # cut to this size: both halves and their concatenation, then a convolution
        peak = max(peak, sum(skips) + 4 * own * height * width)
    return int(SLACK * itemsize * peak)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine and of its control group."""
    found = [_machine()]
    for limit, used in _CONTROL_GROUPS:
        try:
            limited, taken = Path(limit).read_text().strip(), Path(used).read_text().strip()
        except OSError:
            continue
        if limited.isdigit() and taken.isdigit():
            found.append(int(limited) - int(taken))
    return max(min(found), 0)


_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def _machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere what is free is not told; half of what is built in.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
