"""The machine that a run is planned for."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict


class Machine(BaseModel):
    """What training can use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: int  # that this process may run on
    memory: float  # bytes that it may still take
    bfloat16: bool  # the processor that trains computes in it
    gpu: str | None = None  # its name

    def __str__(self) -> str:
        where = f"{self.cores} core{'s' * (self.cores != 1)}, {self.memory / 1e9:.1f} GB free"
        kind = "bfloat16" if self.bfloat16 else "no bfloat16"
        return f"{self.gpu}, {where}, {kind}" if self.gpu else f"{where}, {kind}"


def this_machine() -> Machine:
    """Cores, free memory (within the control group), precision and the first GPU."""
    import tensorflow as tf

    from keras_unet.inference.working_set import free_memory
    from keras_unet.models.precision import dtype_policy

    affinity = getattr(os, "sched_getaffinity", None)
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    return Machine(
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory=free_memory(),
        bfloat16=dtype_policy("auto")[0] == "mixed_bfloat16",
        gpu=str(details.get("device_name", "GPU")) if gpus else None,
    )
