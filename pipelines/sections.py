"""Sections of a pipeline's settings: frozen, validated objects that reject unknown keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from keras_unet.data import LabelKind, LabelRule, NormalizationMethod
from keras_unet.errors import ConfigError
from keras_unet.remote_path import local_path, remote_uri
from keras_unet.settings import AnyText, Section
from pipelines.evaluator.policy import DEFAULTS, EvaluationPolicy, Scoring, Threshold

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Place = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]  # a path, or gs://…
LocalPlace = Annotated[Place, AfterValidator(lambda place: str(local_path(place)))]


class DataSettings(Section):
    """Where raw images and labels are, what the labels' numbers mean, and how they are split."""

    images: Place | None = Field(
        None,
        description="folder with images/ and labels/, or manifest.csv; may hold {SPAN} and "
        "{VERSION}; None: synthetic cells",
    )
    span: int | None = Field(None, ge=0, description="where images holds {SPAN}; None: the newest")
    groups: str | None = Field(
        None, description="pattern: images whose names match in equal text stay together"
    )
    eval_share: float = Field(0.2, gt=0.0, lt=1.0, description="of the images (or groups)")
    seed: int = Field(0, description="another one splits in another way")
    label_kind: LabelKind | None = Field(
        None, description="are the numbers classes, or objects; None: settled from the files"
    )
    label_values: tuple[int, ...] | None = Field(None, description="stored value of each class")
    label_ignore: int | None = Field(None, description="stored value of pixels that don't count")
    num_classes: int | None = Field(None, description="classes 0 … num_classes - 1")
    class_names: tuple[AnyText, ...] | None = Field(None, description="background first")
    channels: int | None = Field(None, ge=1, description="of the images; None: from the files")
    dtypes: tuple[str, ...] = Field((), description="of the images, e.g. uint8; (): from the files")
    normalization: NormalizationMethod = Field(
        "dataset", description='z-score learnt by Transform, by "image", or "range"'
    )
    max_bad_share: Share = Field(
        0.02, description="of the images that may be unusable (dead letters) before a run stops"
    )

    @property
    def rule(self) -> LabelRule | None:
        """What the labels' numbers mean; None where that is left to the files."""
        if self.label_kind is None and self.label_values is None and self.num_classes is None:
            return None
        return LabelRule(
            kind=self.label_kind or "semantic",
            values=self.label_values,
            num_classes=self.num_classes,
            ignore=self.label_ignore,
        )

    @property
    def source(self) -> tuple[str, str]:
        """(folder, pattern below it) as TFX's file-based ExampleGen takes them."""
        if self.images is None:
            raise ConfigError("data.images: expected a folder or a manifest, found nothing")
        parts = absolute(self.images).rstrip("/").split("/")
        first = next((n for n, part in enumerate(parts) if "{" in part), len(parts))
        if self.images.endswith(".csv"):
            first = min(first, len(parts) - 1)
        else:
            parts += ["*", "*"]
        return "/".join(parts[:first]) or "/", "/".join(parts[first:])

    @model_validator(mode="after")
    def _fits(self) -> DataSettings:
        _ = self.rule
        try:
            re.compile(self.groups or "")
        except re.error as error:
            raise ValueError(f"groups is no regular expression: {error}") from error
        if self.images and remote_uri(self.images):
            raise ValueError(
                f"images is {self.images}; expected a path: images are read as files, so mount "
                "the bucket (Vertex AI has gs://bucket at /gcs/bucket)"
            )
        if self.span is not None and "{" not in (self.images or ""):
            raise ValueError(f"span is {self.span}, but images is {self.images}, without {{SPAN}}")
        return self


class TunerSettings(Section):
    """Whether settings of the training are searched for first."""

    enabled: bool = Field(False, description="run the Tuner before the Trainer")
    space: dict[str, tuple[Any, ...]] | None = Field(
        None, description="values of settings of the training to try; None: rate, dropout, w0"
    )
    trials: int = Field(8, ge=1, description="settings tried")
    steps: int = Field(200, ge=1, description="training steps of each trial")


class CheckOptions(Section):
    """How strictly the statistics of the records are judged."""

    min_labelled: float = Field(0.9, ge=0.0, le=1.0, description="share of images with a cell")
    skew: bool = Field(True, description="compare the evaluation images with the training images")
    drift: bool = Field(True, description="compare with the last data that passed; local only")
    min_images: int = Field(
        50, ge=1, description="fewer: skew and drift only if they have nothing in common"
    )
    tolerated: tuple[AnyText, ...] = Field((), description="features whose anomalies stop nothing")


class EvaluationSettings(Scoring):
    """What a model must reach to be blessed; with an empty list of thresholds none is."""

    thresholds: tuple[Threshold, ...] | None = Field(
        None,
        description="scores with at_least, at_most, min_gain (on the baseline), slice; None: "
        "objects.f1 for instance labels, mean_dice for classes",
    )

    def policy(self, kind: LabelKind) -> EvaluationPolicy:
        """For labels of a kind; its thresholds are `DEFAULTS` where none are given."""
        given = self.model_dump()
        if self.thresholds is None:
            by = "semantic" if self.scores.objects is False else kind
            given["thresholds"] = DEFAULTS[by]
        return EvaluationPolicy.model_validate(given)


Precision = Literal["float32", "bfloat16", "float16"]


class ExportSettings(Section):
    """The SavedModel that is published; see `keras-unet export`."""

    precision: Precision = Field("float32", description="of the weights in the SavedModel")
    tile: int | None = Field(None, ge=1, description="input tile of the server; None: chosen")
    max_pixels: int | None = Field(None, ge=1, description="of an image in a request; None: 2^26")


class InfraSettings(Section):
    """How a model is tried in a server before it is pushed."""

    server: Literal["embedded", "docker"] = Field(
        "embedded", description="`keras-unet serve`, or TFX's own with TensorFlow Serving in Docker"
    )
    seconds: float = Field(300.0, gt=0.0, description="until the server must have answered")


class PushSettings(Section):
    """Where blessed models go."""

    folder: Place = Field(
        "saved_models", description="versions go to <folder>/<name>/<n>; here, or gs://…"
    )
    keep: int | None = Field(None, ge=1, description="newest versions kept; None: all")


class BulkSettings(Section):
    """New images to segment with the blessed model."""

    images: LocalPlace | None = Field(None, description="folder of new images; None: no such step")

    @property
    def folder(self) -> str | None:
        """The images' place, absolute where it is local."""
        return None if self.images is None else absolute(self.images)


class BeamSettings(Section):
    """The engine of the data-parallel steps."""

    workers: int = Field(1, ge=1, description="processes on this machine")
    args: tuple[AnyText, ...] = Field(
        (), description='Beam\'s own flags instead, e.g. "--runner=FlinkRunner"'
    )

    @property
    def flags(self) -> list[str]:
        """As Beam takes them.

        Not Beam's DirectRunner: that first tries Prism, a program that it downloads from GitHub,
        and which knows nothing of a number of workers.
        """
        mode = "multi_processing" if self.workers > 1 else "in_memory"
        own = [
            "--runner=FnApiRunner",
            f"--direct_running_mode={mode}",
            f"--direct_num_workers={self.workers}",
        ]
        return list(self.args) or own


class VertexSettings(Section):
    """What Kubeflow Pipelines v2 or Vertex AI needs beside."""

    image: Place = Field(
        "unet-keras-tfx:latest", description="container with TFX and this package: each step's"
    )


def absolute(place: str) -> str:
    """A local path made absolute; gs://… as it is."""
    return remote_uri(place) or str(local_path(place).expanduser().resolve())
