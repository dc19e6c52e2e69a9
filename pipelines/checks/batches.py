"""Batches of records bounded in bytes rather than in number."""

from __future__ import annotations

from absl import flags
from tfx_bsl.coders import batch_util  # noqa: F401  # defines the flag


def bound_batches() -> None:
    """Makes TFX's readers hand on about 20 MiB of records at a time, not up to 1,000 records.

    A record of 512 x 512 pixels has 1 MB of border weights alone: 1,000 are a gigabyte, twice
    over while they are parsed. The size is fixed where a step's Beam graph is built, in the
    process that runs the step; workers get it from there. (Not on Kubeflow, where that process is
    not the one that makes the pipeline: TFX's own limits stay.) Idempotent.
    """
    flags.FLAGS.set_default("tfxio_use_byte_size_batching", True)
