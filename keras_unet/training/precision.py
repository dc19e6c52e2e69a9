"""Which precision the layers compute in: bfloat16 where the processor has it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tensorflow as tf

Precision = Literal["auto", "float32", "bfloat16"]


def dtype_policy(precision: Precision) -> tuple[str, str]:
    """The Keras dtype policy for a precision, and why: ("mixed_bfloat16", "the CPU has …")."""
    if precision == "float32":
        return "float32", "as set"
    if precision == "bfloat16":
        return "mixed_bfloat16", "as set"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
        if capability and capability[0] >= 8:
            return "mixed_bfloat16", "the GPU computes in bfloat16"
        return "float32", "the GPU has no bfloat16"
    found = {"avx512_bf16", "amx_bf16"} & _cpu_flags()
    if found:
        return "mixed_bfloat16", f"the CPU has {' and '.join(sorted(found))}"
    return "float32", "the CPU has no bfloat16 instructions"


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())
