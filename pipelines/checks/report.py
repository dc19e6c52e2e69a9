# No `from __future__ import annotations`: TFX reads the types of a component's arguments.
"""DataReport: the checks' verdict and pages, written before anything stops the run."""

import json
from html import escape

from tensorflow_data_validation.utils import display_util
from tfx import v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact
from tfx.utils import io_utils

from pipelines.checks.findings import (
    Finding,
    of_comparison,
    of_schema,
    of_values,
    read_anomalies,
    unjudged,
    with_names,
)
from pipelines.checks.pages import anomalies_page, statistics_page
from pipelines.checks.settings import CheckSettings
from pipelines.checks.statistics import load_statistics, read_statistics

FINDINGS = "findings.json"
ANOMALIES = "anomalies.html"
STATISTICS = "statistics.html"
FACETS = "facets.html"


class DataPages(Artifact):
    """findings.json (what was found, and whether it stops the run) and the pages in HTML."""

    TYPE_NAME = "keras_unet.DataPages"  # as Kubeflow wants such names


@tfx.dsl.components.component
def DataReport(
    examples: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[standard_artifacts.Schema],
    anomalies: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleAnomalies],
    settings: tfx.dsl.components.Parameter[str],
    pages: tfx.dsl.components.OutputArtifact[DataPages],
    skew: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleAnomalies] = None,
    drift: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleAnomalies] = None,
    baseline: tfx.dsl.components.InputArtifact[standard_artifacts.ExampleStatistics] = None,
) -> None:
    """Judges what the validators found. It never fails on bad data: AnomalyGate does, and what a
    failed component wrote is removed by TFX.

    Args:
        examples: read only if something stops the run, for the names of the images.
        settings: CheckSettings as JSON.
        skew, drift: of a DistributionValidator; drift against `baseline`.
    """
    given = CheckSettings.model_validate_json(settings)
    found = read_statistics(statistics.uri)
    before = read_statistics(baseline.uri) if baseline is not None else None
    schema_file = io_utils.get_only_uri_in_dir(schema.uri)
    expected = io_utils.SchemaReader().read(schema_file)
    findings = of_schema(read_anomalies(anomalies.uri), found, expected, given)
    findings += of_values(found, given)
    folders = {split: artifact_utils.get_split_uri([examples], split) for split in found}
    findings = with_names(findings, folders, expected, given)
    notes = []
    if skew is not None:
        findings += of_comparison("skew", read_anomalies(skew.uri), found, found, given)
        notes += unjudged("skew", [("eval", "train")], found, found, given)
    if drift is not None and before is not None:
        findings += of_comparison("drift", read_anomalies(drift.uri), found, before, given)
        same = [(split, split) for split in found if split in before]
        notes += unjudged("drift", same, found, before, given)
    elif given.drift:
        notes.append("No earlier batch has passed: none to compare with.")
    written = {
        FINDINGS: json.dumps([one.model_dump() for one in findings], indent=1),
        ANOMALIES: anomalies_page(findings, found, " ".join(notes)),
        STATISTICS: statistics_page(found, before),
        FACETS: _facets(statistics.uri, list(found)),
    }
    for name, text in written.items():
        with fileio.open(f"{pages.uri}/{name}", "w") as file:
            file.write(text)


def read_findings(uri: str) -> list[Finding]:
    """From a DataPages artifact."""
    with fileio.open(f"{uri}/{FINDINGS}") as file:
        return [Finding.model_validate(one) for one in json.loads(file.read())]


def _facets(uri: str, splits: list[str]) -> str:
    """TFDV's own page of two splits; it loads Facets from raw.githubusercontent.com."""
    shown = splits[:2]
    first, *second = (load_statistics(uri, split) for split in shown)
    body = (
        display_util.get_statistics_html(first, *second, *[escape(split) for split in shown])
        if second
        else display_util.get_statistics_html(first, lhs_name=escape(shown[0]))
    )
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>Statistics</title>\n{body}\n'
