"""Records as ImageExampleGen writes them, for tests that need no files behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage

from keras_unet.data import make_cells
from keras_unet.data.records import encode_example


def record(
    name: str, image: np.ndarray, labels: np.ndarray, *, instances: bool = True, group: str = ""
) -> bytes:
    """One record with every feature that the pipeline's schema expects; image [H, W, C]."""
    cells = labels if instances else ndimage.label(labels > 0)[0]
    areas = np.bincount(cells.ravel())[1:]
    areas = areas[areas > 0]
    values = np.unique(labels > 0 if instances else labels)
    border = np.zeros(labels.shape, "<f4").tobytes()
    numbers: dict[str, Any] = {
        "image/mean": [float(np.nanmean(image))],
        "image/std": [float(np.nanstd(image))],
        "image/low": [float(np.nanmin(image))],
        "image/high": [float(np.nanmax(image))],
        "label/values": [int(value) for value in values],
        "label/foreground": [float((labels > 0).mean())],
        "label/cells": [len(areas)],
        "weight/sigma": [5.0],
        "weight/separation": [2],
    }
    if len(areas):
        numbers["label/diameter"] = [float(np.median(2 * np.sqrt(areas / np.pi)))]
    example = tf.train.Example.FromString(encode_example(name, image, labels))
    for key, value in {"image/group": group.encode(), "weight/border": border}.items():
        example.features.feature[key].bytes_list.value.append(value)
    for key, found in numbers.items():
        kind = "int64_list" if isinstance(found[0], int) else "float_list"
        getattr(example.features.feature[key], kind).value.extend(found)
    return example.SerializeToString(deterministic=True)


def write_records(
    folder: Path,
    splits: dict[str, int],
    change: Callable[[str, int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    | None = None,
    *,
    instances: bool = True,
    size: int = 32,
    seed: int = 0,
) -> Path:
    """`splits` images in `<folder>/<split>/records.gz`: GZIP TFRecords for TFX's ImportExampleGen.

    `change(split, number, image [H, W, 1] uint8, instance labels) -> (image, labels)` breaks some.
    """
    for split, count in splits.items():
        records = []
        for k in range(count):
            first = seed + 1000 * len(split)
            image, labels = make_cells(size, seed=first + k, diameter=9.0)
            image = image[..., None]
            if not instances:
                labels = (labels > 0).astype(np.int32)
            if change is not None:
                image, labels = change(split, k, image, labels)
            records.append(record(f"{split}-{k}", image, labels, instances=instances))
        write(folder / split / "records.gz", records)
    return folder


def write(path: Path, records: Iterable[bytes]) -> None:
    """A GZIP TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for one in records:
            writer.write(one)
