"""Configuration of a pipeline: one frozen, validated object that rejects unknown keys.

It is read from TOML and from `--set section.key=value`, by the reader of `keras-unet train`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from keras_unet.settings import Section, merged, nested_error, read_tree, source_of, validated
from keras_unet.training import LISTING as TRAIN_LISTING
from keras_unet.training import TrainConfig
from pipelines.sections import (
    BeamSettings,
    BulkSettings,
    CheckOptions,
    DataSettings,
    EvaluationSettings,
    ExportSettings,
    InfraSettings,
    LocalPlace,
    Place,
    PushSettings,
    TunerSettings,
    VertexSettings,
    absolute,
)

LISTING = "python -m pipelines.run --show-settings"
OF_THE_PIPELINE = ("output", "name")  # of a training: where its files go
WITHOUT_DATA = "synthetic"  # so that made-up cells are never published as somebody's model


class PipelineConfig(Section):
    """A whole pipeline."""

    name: str = Field(
        "unet",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="of the pipeline, and of the model: saved_models/<name>; without images, "
        f"{WITHOUT_DATA}",
    )
    root: Place | None = Field(
        None, description="folder of artifacts, metadata and logs; None: runs/pipelines/<name>"
    )
    metadata: LocalPlace | None = Field(
        None, description="SQLite file of the metadata store; None: metadata.sqlite in the root"
    )
    runner: Literal["local", "vertex"] = Field(
        "local", description="run here, or write the specification for Kubeflow v2 and Vertex AI"
    )
    cache: bool = Field(True, description="reuse the results of steps whose inputs are the same")
    data: DataSettings = DataSettings()
    checks: CheckOptions = CheckOptions()
    train: dict[str, Any] = Field({}, description="settings of `keras-unet train`, without data")
    tuner: TunerSettings = TunerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    export: ExportSettings = ExportSettings()
    infra: InfraSettings = InfraSettings()
    push: PushSettings = PushSettings()
    bulk: BulkSettings = BulkSettings()
    beam: BeamSettings = BeamSettings()
    vertex: VertexSettings = VertexSettings()

    @field_validator("train")
    @classmethod
    def _trainable(cls, tree: dict[str, Any]) -> dict[str, Any]:
        for key in ("data", *OF_THE_PIPELINE):
            if key in tree:
                raise ValueError(f"train.{key}: the pipeline sets it; see [data] and root")
        try:
            TrainConfig.model_validate(merged(tree, {"data": {"images": "records"}}))
        except ValidationError as error:
            raise nested_error(error, TrainConfig, TRAIN_LISTING, "train.") from error
        return tree

    @property
    def pipeline_root(self) -> str:
        """Absolute where it is local, since artifacts are recorded by their place."""
        return absolute(self.root or f"runs/pipelines/{self.name}")

    @property
    def metadata_path(self) -> Path:
        """The SQLite file."""
        return Path(absolute(self.metadata or f"{self.pipeline_root}/metadata.sqlite"))

    @property
    def destination(self) -> str:
        """The folder of the model's versions."""
        return f"{absolute(self.push.folder)}/{self.name}"


def load_pipeline_config(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
) -> PipelineConfig:
    """Builds a configuration from a TOML file, then `data`, then `section.key=value` settings.

    Without images its name, and so its root and its model's, is another one: `WITHOUT_DATA`.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value does not fit; names
            every bad key, what was found and what was expected.
    """
    settings = list(settings)
    tree = read_tree(path, settings, data=data)
    if not (tree.get("data") or {}).get("images"):
        tree = {"name": WITHOUT_DATA, **tree}
    return validated(PipelineConfig, tree, source_of(path, settings), LISTING)


def train_tree(config: PipelineConfig) -> dict[str, Any]:
    """The settings of the training, without the places of its records."""
    data = config.data
    keys = ("label_kind", "label_values", "label_ignore", "num_classes", "class_names")
    given = {key: value for key in keys if (value := getattr(data, key)) is not None}
    return merged(config.train, {"data": {**given, "normalization": data.normalization}})
