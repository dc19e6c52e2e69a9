"""Schema of the records: kept by hand in `schema.pbtxt`, adapted to a data set."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Literal

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.dsl.io import fileio
from tfx.proto import distribution_validator_pb2

from keras_unet.errors import ConfigError
from pipelines.checks.settings import CheckSettings

Comparison = Literal["skew", "drift"]


def curated_schema() -> schema_pb2.Schema:
    """`schema.pbtxt`: grey images, classes 0 and 1."""
    text = (resources.files(__package__) / "schema.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, schema_pb2.Schema())


def adapted_schema(settings: CheckSettings) -> schema_pb2.Schema:
    """The curated schema for images and labels as `settings` says they are.

    A domain of TensorFlow Data Validation knows no gaps: where label values have some (0 and 255),
    `findings.of_values` looks at what is between.

    Raises:
        ConfigError: `tolerated` names what is no feature.
    """
    schema = curated_schema()
    by_name = {feature.name: feature for feature in schema.feature}
    unknown = [name for name in settings.tolerated if name not in by_name]
    if unknown:
        raise ConfigError(
            f"checks.tolerated names {', '.join(unknown)}; expected features: {', '.join(by_name)}"
        )
    channels = by_name["image/channels"].int_domain
    channels.min = channels.max = settings.channels
    if settings.dtypes:
        dtypes = by_name["image/dtype"].string_domain.value
        del dtypes[:]
        dtypes.extend(sorted(set(settings.dtypes)))
    labels = by_name["label/values"].int_domain
    labels.min, labels.max = min(settings.stored), max(settings.stored)
    by_name["label/diameter"].presence.min_fraction = settings.min_labelled
    return schema


def distribution_config(
    schema: schema_pb2.Schema, comparison: Comparison
) -> distribution_validator_pb2.DistributionValidatorConfig:
    """The thresholds of the schema's `skew_comparator` or `drift_comparator`, for TFX's
    DistributionValidator (its ExampleValidator compares with nothing)."""
    config = distribution_validator_pb2.DistributionValidatorConfig()
    name = f"{comparison}_comparator"
    for feature in schema.feature:
        if feature.HasField(name):
            added = config.default_slice_config.feature.add()
            added.path.step.append(feature.name)
            added.distribution_comparator.CopyFrom(getattr(feature, name))
    return config


def write_schema(schema: schema_pb2.Schema, folder: str) -> str:
    """Writes it into `folder` (local or remote) under a name made from its content.

    TFX caches ImportSchemaGen by the path of the file, so another content needs another path.
    """
    text = text_format.MessageToString(schema)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = f"{folder.rstrip('/')}/{digest}/schema.pbtxt"
    if not fileio.exists(path):
        fileio.makedirs(f"{folder.rstrip('/')}/{digest}")
        beside = f"{path}.part"
        with fileio.open(beside, "w") as file:
            file.write(text)
        fileio.rename(beside, path, overwrite=True)
    return path
