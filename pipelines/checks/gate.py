# No `from __future__ import annotations`: TFX reads the types of a component's arguments.
"""AnomalyGate: what follows it runs only on data that passed. ExampleValidator stops nothing."""

from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from keras_unet.errors import DataError
from pipelines.checks.baseline import APPROVED
from pipelines.checks.findings import message
from pipelines.checks.report import ANOMALIES, DataPages, read_findings


@tfx.dsl.components.component
def AnomalyGate(
    statistics: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleStatistics],
    pages: tfx.dsl.components.InputArtifact[DataPages],
    approved: tfx.dsl.components.OutputArtifact[standard_artifacts.ExampleStatistics],
) -> None:
    """Passes on a copy of the statistics, the measure for the next batch's drift.

    Raises:
        DataError: the checks found what stops the run; every such anomaly is named.
    """
    text = message(read_findings(pages.uri), f"{pages.uri}/{ANOMALIES}")
    if text:
        raise DataError(text)
    io_utils.copy_dir(statistics.uri, approved.uri)
    approved.split_names = statistics.split_names
    approved.span = statistics.span
    approved.set_int_custom_property(APPROVED, statistics.id)
