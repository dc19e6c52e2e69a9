"""Machine: its cores, memory within the control groups, GPU, precision, and those beside it.

TensorFlow is imported where a GPU is asked for, and only then.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from keras_unet.errors import ConfigError
from keras_unet.settings import Frozen

Devices = Literal["auto", "one", "all"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Machine(Frozen):
    """What training can use."""

    cores: int  # that this process may run on
    memory: float  # bytes that it may still take, with the libraries loaded
    bfloat16: bool  # the processor that trains computes in it
    gpu: str | None = None  # its name
    gpu_memory: float | None = None  # bytes of the first one; None: unknown
    devices: int = 1  # that share a batch, of all machines

    def __str__(self) -> str:
        where = f"{self.cores} core{'s' * (self.cores != 1)}, {self.memory / 1e9:.1f} GB free"
        kind = "bfloat16" if self.bfloat16 else "no bfloat16"
        each = f", {self.devices} devices" if self.devices > 1 else ""
        if self.gpu is None:
            return f"{where}, {kind}{each}"
        own = f" with {self.gpu_memory / 1e9:.1f} GB" if self.gpu_memory else ""
        return f"{self.gpu}{own}, {where}, {kind}{each}"


def this_machine(devices: Devices = "auto") -> Machine:
    """Cores, memory (within the control group), precision, the first GPU, and who shares a batch.

    Raises:
        ConfigError: TF_CONFIG cannot be used.
    """
    import tensorflow as tf

    machines = 1 if devices == "one" else read_cluster(os.environ.get("TF_CONFIG", ""))[0]
    found = gpus()
    local = 1
    if machines > 1 or devices == "all":
        local = max(len(found), 1)
    if machines == 1 and devices == "all" and not found:  # machines must meet before this is asked
        local = len(tf.config.list_logical_devices("CPU"))
    return Machine(
        cores=cores(),
        memory=free_memory(),
        bfloat16=dtype_policy("auto")[0] == "mixed_bfloat16",
        gpu=str(found[0].get("device_name", "GPU")) if found else None,
        gpu_memory=gpu_memory() if found else None,
        devices=machines * local,
    )


def read_cluster(text: str) -> tuple[int, int]:
    """Machines in a TF_CONFIG, and which of them this is; (1, 0) for an empty one.

    A "chief" comes before the workers. Others, as "evaluator" and "ps", have no part here.
    """
    if not text.strip():
        return 1, 0
    expected = (
        'expected {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
    )
    try:
        tree = json.loads(text)
        cluster = tree.get("cluster", {})
        task = tree.get("task", {})
        jobs = {name: list(cluster.get(name, ())) for name in ("chief", "worker")}
        others = cluster.keys() - jobs.keys()
        places = [(name, i) for name, hosts in jobs.items() for i in range(len(hosts))]
        if not cluster:
            return 1, 0
        if others or not places:
            raise ValueError(f"cluster has {', '.join(sorted(cluster))}")
        return len(places), places.index((task.get("type"), int(task.get("index"))))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"TF_CONFIG={text}: {error}; {expected}") from error


def cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as Linux has it."""
    return next(_cpu_info("model name"), platform.processor() or platform.machine())


def _cpu_info(key: str) -> Iterator[str]:
    """The values that /proc/cpuinfo has for a key, one a core."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                yield value.strip()


def gpus() -> list[dict[str, Any]]:
    """What TensorFlow tells of each GPU: device_name, compute_capability."""
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in found]


def gpu_memory() -> int | None:
    """Bytes of the first GPU; None where NVIDIA's driver does not tell.

    All that is built in: what is free is not told without taking some of it, and TensorFlow takes
    the rest at its first use.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    if (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)  # of those in CUDA_VISIBLE_DEVICES
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    ):
        return None
    return size.value


def dtype_policy(precision: Precision) -> tuple[str, str]:
    """The Keras dtype policy for a precision, and why: ("mixed_bfloat16", "the CPU has …").

    Weights, logits and loss are float32 under each. "mixed_float16" needs its loss scaled, see
    `keras_unet.training.build`: float16 ends at 65504 and at 6e-8. "auto" takes it on GPUs
    with tensor cores that are older than bfloat16 (compute capability 7), never on a CPU.
    """
    if precision != "auto":
        return "float32" if precision == "float32" else f"mixed_{precision}", "as set"
    capability = gpu_capability()
    if capability is not None:
        if capability >= 8:
            return "mixed_bfloat16", "the GPU computes in bfloat16"
        if capability == 7:
            return "mixed_float16", "the GPU has no bfloat16, but float16"
        return "float32", "the GPU has no bfloat16"
    found = cpu_bfloat16()
    if found:
        return "mixed_bfloat16", f"the CPU has {' and '.join(found)}"
    return "float32", "the CPU has no bfloat16 instructions"


def gpu_capability() -> int | None:
    """The first GPU's major compute capability, 0 if it does not say; None without a GPU."""
    found = gpus()
    if not found:
        return None
    capability = found[0].get("compute_capability")
    return int(capability[0]) if capability else 0


def cpu_bfloat16() -> list[str]:
    """The CPU's instructions for bfloat16, by the names that Linux gives them; [] for none."""
    return sorted({"avx512_bf16", "amx_bf16"} & set(next(_cpu_info("flags"), "").split()))


def free_memory() -> int:
    """Bytes that this process may still take: of the machine and of its control groups."""
    return max(min([_available(), *_control_groups()]), 0)


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


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere what is free is not told; half of what is built in.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
