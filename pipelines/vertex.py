"""Specification of a pipeline for Kubeflow Pipelines v2 and Vertex AI Pipelines, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_unet.errors import ConfigError
from pipelines.config import PipelineConfig


def compile_pipeline(config: PipelineConfig, output: Path) -> dict[str, Any]:
    """Writes the PipelineJob to `output` (.json or .yaml) and returns it.

    Args:
        config: with runner "vertex" and nothing left open. Every step runs in the container
            `vertex.image`, which holds TFX and this package. The root is a place that all of them
            reach, gs://…; images and destination are paths there, /gcs/….

    Raises:
        ConfigError: a setting that Kubeflow has no counterpart of.
    """
    if config.infra.server == "docker":
        raise ConfigError(
            "infra.server is docker: TFX's InfraValidator does not compile for Kubeflow v2; "
            "expected embedded"
        )
    from tfx import v1 as tfx

    from pipelines.pipeline import create_pipeline

    output = output.resolve()
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=config.vertex.image, display_name=config.name
        ),
        output_dir=str(output.parent),
        output_filename=output.name,
    )
    return runner.run(create_pipeline(config), write_out=True)
