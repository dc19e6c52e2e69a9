"""Machine that trains: cores, memory, precision, GPU, and the machines that TF_CONFIG names."""

from __future__ import annotations

import json
import os
from typing import Literal

from pydantic import BaseModel, ConfigDict

from keras_unet.errors import ConfigError

Devices = Literal["auto", "one", "all"]


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


class Machine(BaseModel):
    """What training can use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: int  # that this process may run on
    memory: float  # bytes that it may still take, with the libraries loaded
    bfloat16: bool  # the processor that trains computes in it
    gpu: str | None = None  # its name
    devices: int = 1  # that share a batch, of all machines

    def __str__(self) -> str:
        where = f"{self.cores} core{'s' * (self.cores != 1)}, {self.memory / 1e9:.1f} GB free"
        kind = "bfloat16" if self.bfloat16 else "no bfloat16"
        each = f", {self.devices} devices" if self.devices > 1 else ""
        return f"{self.gpu}, {where}, {kind}{each}" if self.gpu else f"{where}, {kind}{each}"


def this_machine(devices: Devices = "auto") -> Machine:
    """Cores, memory (within the control group), precision, the first GPU, and who shares a batch.

    Raises:
        ConfigError: TF_CONFIG cannot be used.
    """
    import tensorflow as tf

    from keras_unet.inference.planning import free_memory
    from keras_unet.models.precision import dtype_policy

    machines = 1 if devices == "one" else read_cluster(os.environ.get("TF_CONFIG", ""))[0]
    affinity = getattr(os, "sched_getaffinity", None)
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    local = 1
    if machines > 1 or devices == "all":
        local = max(len(gpus), 1)
    if machines == 1 and devices == "all" and not gpus:  # machines must meet before this is asked
        local = len(tf.config.list_logical_devices("CPU"))
    return Machine(
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory=free_memory(),
        bfloat16=dtype_policy("auto")[0] == "mixed_bfloat16",
        gpu=str(details.get("device_name", "GPU")) if gpus else None,
        devices=machines * local,
    )
