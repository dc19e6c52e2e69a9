"""Evaluator for Kubeflow Pipelines v2 and Vertex AI, where models have names, not numbers."""

from __future__ import annotations

from typing import Any

from tfx.components.evaluator.executor import Executor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec

from pipelines.evaluator.component import SegmentationEvaluator


class KubeflowExecutor(Executor):  # type: ignore[misc]
    """Does what SegmentationEvaluator's does.

    Kubeflow's entry point puts the model's name into the blessing where the executor is of TFX's
    Evaluator's class, and nowhere else; its resolver finds the latest blessed model by that name.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        executor = SegmentationEvaluator.EXECUTOR_SPEC.executor_class()
        executor.Do(input_dict, output_dict, exec_properties)


class KubeflowEvaluator(SegmentationEvaluator):  # type: ignore[misc, valid-type]
    """SegmentationEvaluator with that executor."""

    EXECUTOR_SPEC = BeamExecutorSpec(KubeflowExecutor)
