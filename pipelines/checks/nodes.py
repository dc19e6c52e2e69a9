"""Nodes of the data checks, joined: what a pipeline puts between its examples and Transform."""

from __future__ import annotations

from typing import NamedTuple

from tfx import v1 as tfx
from tfx.components.distribution_validator.component import DistributionValidator
from tfx.dsl.components.base.base_node import BaseNode
from tfx.types import BaseChannel, standard_artifacts

from pipelines.checks.baseline import LastApproved
from pipelines.checks.batches import bound_batches
from pipelines.checks.gate import AnomalyGate
from pipelines.checks.report import DataReport
from pipelines.checks.schema import adapted_schema, distribution_config, write_schema
from pipelines.checks.settings import CheckSettings
from pipelines.checks.statistics import statistics_options

GATE = "AnomalyGate"


class DataChecks(NamedTuple):
    """nodes: all of them, in order; gate: what everything later must depend on."""

    nodes: list[BaseNode]
    schema: BaseChannel
    statistics: BaseChannel
    gate: BaseNode


def data_checks(examples: BaseChannel, settings: CheckSettings, folder: str) -> DataChecks:
    """Statistics, schema, validation, skew, drift, report and gate.

    There is no SchemaGen: a schema inferred from the batch at hand would allow whatever is wrong
    with it. The schema is `schema.pbtxt`, adapted to `settings`.

    Args:
        examples: ExampleGen's, with the splits "train" and "eval".
        folder: where the adapted schema is written, local or remote.
    """
    bound_batches()  # of StatisticsGen and Transform, which run in this process
    adapted = adapted_schema(settings)
    schema = tfx.components.ImportSchemaGen(schema_file=write_schema(adapted, folder))
    statistics = tfx.components.StatisticsGen(
        examples=examples, schema=schema.outputs["schema"], stats_options=statistics_options()
    )
    found = statistics.outputs["statistics"]
    validator = tfx.components.ExampleValidator(statistics=found, schema=schema.outputs["schema"])
    nodes: list[BaseNode] = [schema, statistics, validator]
    compared: dict[str, BaseChannel] = {}
    if settings.skew:
        skew = DistributionValidator(
            statistics=found,
            baseline_statistics=found,
            config=distribution_config(adapted, "skew"),
            include_split_pairs=[("eval", "train")],
        ).with_id("SkewValidator")
        compared["skew"] = skew.outputs["anomalies"]
        nodes.append(skew)
    if settings.drift:
        previous = tfx.dsl.Resolver(
            strategy_class=LastApproved,
            statistics=found,
            approved=tfx.dsl.Channel(
                type=standard_artifacts.ExampleStatistics,
                producer_component_id=GATE,
                output_key="approved",
            ),
        ).with_id("previous_statistics")
        baseline = previous.outputs["approved"].as_optional()  # the first batch has none
        drift = DistributionValidator(
            statistics=found,
            baseline_statistics=baseline,
            config=distribution_config(adapted, "drift"),
        ).with_id("DriftValidator")
        compared["drift"] = drift.outputs["anomalies"]
        compared["baseline"] = baseline
        nodes += [previous, drift]
    report = DataReport(
        examples=examples,
        statistics=found,
        schema=schema.outputs["schema"],
        anomalies=validator.outputs["anomalies"],
        settings=settings.model_dump_json(),
        **compared,
    )
    gate = AnomalyGate(statistics=found, pages=report.outputs["pages"]).with_id(GATE)
    return DataChecks([*nodes, report, gate], schema.outputs["schema"], found, gate)


def transform(
    examples: BaseChannel, checks: DataChecks, channels: int, normalization: str
) -> tfx.components.Transform:
    """TFX's Transform with `preprocessing`, on examples that passed the gate.

    Its own statistics are off: StatisticsGen has made them, and TFDV would look into every byte
    of the encoded images again.
    """
    node = tfx.components.Transform(
        examples=examples,
        schema=checks.schema,
        preprocessing_fn="pipelines.checks.preprocessing.preprocessing_fn",
        custom_config={"channels": channels, "normalization": normalization},
        disable_statistics=True,
        disable_analyzer_cache=True,  # loops over images get another key at each tracing
    )
    node.add_upstream_node(checks.gate)
    return node
