"""How much memory a tile takes, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
    """Bytes that this process may still take: of the machine and of its control groups."""
    return max(min([_machine(), *_control_groups()]), 0)


class _Controller(NamedTuple):
    """The files of a version of Linux' control groups; `cached`: page cache, given back on need."""

    folder: str
    limit: str
    used: str
    cached: tuple[str, ...]


_V1 = _Controller(
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_V2 = _Controller("", "memory.max", "memory.current", ("inactive_file", "active_file"))
_MEMBERSHIP, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def _control_groups() -> Iterator[int]:
    """What each limit leaves: of this process's own group and of those it lies within.

    A batch system limits a nested group. In a container the path of the group may be the host's,
    and its files lie where the controller is mounted.
    """
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        kind = _V1 if controllers else _V2
        mount = _MOUNT / kind.folder
        own = mount / group.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):
                left = _left(folder, kind)
                if left is not None:
                    yield left


def _left(folder: Path, kind: _Controller) -> int | None:
    """None without a limit."""
    try:
        limit, used = (int((folder / name).read_text()) for name in (kind.limit, kind.used))
    except (OSError, ValueError):  # no such group; "max"
        return None
    try:
        stat = dict(
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
        cached = sum(int(stat.get(name, 0)) for name in kind.cached)
    except (OSError, ValueError):
        cached = 0
    return limit - max(used - cached, 0)


def _machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere what is free is not told; half of what is built in.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
