"""Disk space that a prediction takes, told before hours of work."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_unet.inference.files.mask_formats import MASK_FORMATS, WHOLE
from keras_unet.inference.files.state import SCRATCHES, Workplace

if TYPE_CHECKING:
    from keras_unet.inference.files.jobs import Common, Job

# Bytes on the disk over bytes of pixels; measured on EM, fluorescence, axons and H&E: masks 0.02 to
# 0.08, labels of objects 0.02 to 0.05, overlays 0.17 to 0.74, probabilities 0.2 to 0.91.
_MASK, _OVERLAY = 0.08, 0.75
_SMALLER = 4 / 3  # with the halved versions for viewers


class Need(NamedTuple):
    """Bytes that a file takes while it is predicted, that its results take, and that go then."""

    scratch: int
    results: int
    freed: int


def need(job: Job, common: Common) -> Need:
    """What predicting a file takes."""
    options, classes = common.options, common.predictor.num_classes
    sizes = [height * width for height, width, _ in job.header.shapes]
    pixels = sum(sizes)
    scratch = pixels * (1 if classes <= 256 else 2)
    halved = _SMALLER if MASK_FORMATS[job.format].halved or max(sizes) > WHOLE else 1.0
    results = _MASK * halved * scratch
    if options.probabilities:
        chances = pixels * classes * np.dtype(options.dtype).itemsize
        scratch += chances
        results += chances * halved
    if options.rescales:
        scratch += 4 * pixels
    if common.decoding is not None:
        scratch += 4 * pixels
        results += _MASK * 2 * pixels * halved
    if options.overlays:
        results += sum(3 * _OVERLAY * min(size, options.preview**2) for size in sizes)
    if "labels" in options.objects:
        results += _MASK * 2 * pixels
    return Need(scratch, math.ceil(results), sum(job.start.earlier.values()))


def require_room(place: Workplace, needs: Mapping[str, Need]) -> None:
    """Refuses to begin what the disk can't hold, file after file.

    Args:
        needs: of all files by stem, in order. What an earlier call computed of them counts as
            there.

    Raises:
        OSError: how much is needed, and how much is free.
    """
    kept = most = 0
    for stem, one in needs.items():
        there = 0
        for what in SCRATCHES:
            path = place.scratch(stem, what)
            there += path.stat().st_blocks * 512 if path.is_file() else 0
        most = max(most, kept + max(0, one.scratch - there) + one.results)
        kept += one.results - one.freed - min(there, one.scratch)
    free = shutil.disk_usage(place.folder).free
    if most > free:
        raise OSError(
            errno.ENOSPC,
            f"No space left: about {most / 1e9:.1f} GB are needed for predicting and for the "
            f"results, {free / 1e9:.1f} GB are free",
            str(place.output),
        )
