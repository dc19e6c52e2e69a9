"""Which precision the layers compute in: bfloat16 where the processor has it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16", "float16"]


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
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    found = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
    return int(found[0]) if found else 0


def cpu_bfloat16() -> list[str]:
    """The CPU's instructions for bfloat16, by the names that Linux gives them; [] for none."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return []
    lines = (
        line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("flags")
    )
    return sorted({"avx512_bf16", "amx_bf16"} & set(next(lines, "").split()))
