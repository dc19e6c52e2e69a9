"""Images that have what the schema forbids: statistics know how many, the records know which."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.dsl.io import fileio

MOST = 10  # names of a finding; enough to see what they have in common


def culprits(
    folder: str, features: Sequence[schema_pb2.Feature], allowed: Collection[int]
) -> dict[str, list[str]]:
    """Names of images that have a forbidden value of a feature, or none of it, by feature.

    It reads the records until there are `MOST` of each, so it is for batches that have some.

    Args:
        folder: of one split: sharded, compressed records.
        features: of the schema, those that images are known to break.
        allowed: the values of label/values: there may be others between the schema's ends.
    """
    found: dict[str, list[str]] = {feature.name: [] for feature in features}
    files = [f"{folder}/{name}" for name in sorted(fileio.listdir(folder))]
    for record in tf.data.TFRecordDataset(files, "GZIP"):
        example = tf.train.Example.FromString(record.numpy())
        given = example.features.feature
        for feature in features:
            values = _values(given[feature.name]) if feature.name in given else []
            names = found[feature.name]
            if len(names) < MOST and _breaks(values, feature, allowed):
                names.append(given["image/name"].bytes_list.value[0].decode())
        if all(len(names) == MOST for names in found.values()):
            break
    return found


def _values(feature: tf.train.Feature) -> Sequence[bytes] | Sequence[int] | Sequence[float]:
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()


def _breaks(
    values: Sequence[bytes] | Sequence[int] | Sequence[float],
    feature: schema_pb2.Feature,
    allowed: Collection[int],
) -> bool:
    domain = feature.WhichOneof("domain_info")
    if not values:
        return True
    if feature.name == "label/values":
        return any(value not in allowed for value in values)
    if domain == "string_domain":
        known = {value.encode() for value in feature.string_domain.value}
        return any(value not in known for value in values)
    if domain not in ("int_domain", "float_domain"):
        return False
    limits = getattr(feature, domain)
    low = limits.min if limits.HasField("min") else float("-inf")
    high = limits.max if limits.HasField("max") else float("inf")
    return any(not low <= float(value) <= high for value in values)
