"""Pipeline from raw images to a version in saved_models/, as a TFX definition."""

from __future__ import annotations

from typing import Any

from tfx import v1 as tfx
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.placeholder.placeholder import environment_variable
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.types import BaseChannel
from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing

from keras_unet.errors import ConfigError
from keras_unet.settings import merged
from keras_unet.training import class_names, make_config
from pipelines.blessed import ServedOrLatestBlessed
from pipelines.bulk_inferrer import MaskInferrer, images_fingerprint
from pipelines.checks.nodes import DataChecks, data_checks, transform
from pipelines.checks.settings import CheckSettings
from pipelines.config import PipelineConfig, train_tree
from pipelines.evaluator.component import SegmentationEvaluator
from pipelines.evaluator.known import require_known
from pipelines.evaluator.kubeflow import KubeflowEvaluator
from pipelines.evaluator.policy import EvaluationPolicy
from pipelines.examples import ExampleOptions, ImageExampleGen
from pipelines.infra_validator import ServerInfraValidator, docker_infra_validator
from pipelines.pusher import VersionPusher
from pipelines.trainer import trainer_config
from pipelines.tuner import tuner_config

BASELINE = "latest_blessed_model"


def create_pipeline(config: PipelineConfig) -> tfx.dsl.Pipeline:
    """The definition, for any of TFX's runners.

    Args:
        config: with nothing left open; see `pipelines.settling`.

    Raises:
        ConfigError: what the labels mean, or the channels, is left open.
    """
    local = config.runner == "local"
    store = sqlite_metadata_connection_config(str(config.metadata_path)) if local else None
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=config.pipeline_root,
        components=components(config),
        enable_cache=config.cache,
        metadata_connection_config=store,
        beam_pipeline_args=beam_flags(config),
    )


def beam_environment(config: PipelineConfig) -> dict[str, str]:
    """What a local run needs in its environment: see `beam_flags`."""
    return {f"KERAS_UNET_BEAM_{k}": flag for k, flag in enumerate(config.beam.flags)}


def beam_flags(config: PipelineConfig) -> list[Any]:
    """Beam's flags. A local run's are read where a step is executed, since TFX's cache takes those
    that are written out for a part of each step: another number of workers would train again."""
    if config.runner != "local":
        return config.beam.flags
    return [environment_variable(name) for name in beam_environment(config)]


def components(config: PipelineConfig) -> list[BaseNode]:
    """Every node, in order."""
    examples = _examples(config)
    records = examples.outputs["examples"]
    checks = _checks(config, records)
    transformed = transform(records, checks, _channels(config), config.data.normalization)
    learnt = _training(config, transformed)
    model = learnt[-1].outputs["model"]
    local = config.runner == "local"
    baseline = _baseline(model, config.destination if local else None)
    evaluator = (SegmentationEvaluator if local else KubeflowEvaluator)(
        examples=records,
        model=model,
        baseline_model=baseline.outputs["model"],
        policy=_policy(config).model_dump_json(),
    ).with_id("Evaluator")
    blessing = evaluator.outputs["blessing"]
    infra = _infra(config, model, records)
    pusher = VersionPusher(
        model=model,
        model_blessing=blessing,
        infra_blessing=infra.outputs["blessing"],
        destination=config.destination,
        metadata=str(config.metadata_path) if local else "",
        keep=config.push.keep or 0,
    ).with_id("Pusher")
    nodes = [examples, *checks.nodes, transformed, *learnt, baseline, evaluator, infra, pusher]
    new = config.bulk.folder
    if new is not None:
        nodes.append(
            MaskInferrer(
                model=model,
                model_blessing=blessing,
                images=new,
                fingerprint=images_fingerprint(new) if local else "",
            ).with_id("BulkInferrer")
        )
    return nodes


def _examples(config: PipelineConfig) -> BaseNode:
    rule = config.data.rule
    if rule is None:
        raise ConfigError(
            "data.label_kind: expected what the labels mean, so that the pipeline is the same "
            "everywhere; `python -m pipelines.run` settles it from local files"
        )
    # Border terms for the loss that the training will use; they are computed once, here.
    loss = make_config(merged(config.train, {"data": {"images": "records"}})).loss
    folder, pattern = config.data.source
    return ImageExampleGen(
        folder,
        ExampleOptions(
            rule=rule,
            groups=config.data.groups,
            sigma=loss.sigma,
            separation=loss.separation,
            max_bad_share=config.data.max_bad_share,
            seed=config.data.seed,
        ),
        pattern=pattern,
        eval_share=config.data.eval_share,
        range_config=span_range(config.data.span),
    )


def span_range(span: int | None) -> tfx.proto.RangeConfig | None:
    """TFX's choice of one span; None: the newest."""
    if span is None:
        return None
    one = tfx.proto.StaticRange(start_span_number=span, end_span_number=span)
    return tfx.proto.RangeConfig(static_range=one)


def _channels(config: PipelineConfig) -> int:
    if config.data.channels is None:
        raise ConfigError("data.channels: expected the channels of the images, found nothing")
    return config.data.channels


def _checks(config: PipelineConfig, records: BaseChannel) -> DataChecks:
    assert config.data.rule is not None
    settings = CheckSettings.of(config.data.rule, _channels(config), config.data.dtypes)
    chosen = config.checks.model_dump()
    chosen["drift"] &= config.runner == "local"  # Kubeflow's compiler knows TFX's resolvers alone
    return data_checks(
        records,
        CheckSettings.model_validate({**settings.model_dump(), **chosen}),
        f"{config.pipeline_root}/schema",
    )


def _training(config: PipelineConfig, transformed: BaseNode) -> list[BaseNode]:
    """[Trainer], or [Tuner, Trainer]."""
    tree, root = train_tree(config), config.pipeline_root
    shared = {
        "examples": transformed.outputs["transformed_examples"],
        "transform_graph": transformed.outputs["transform_graph"],
        "train_args": tfx.proto.TrainArgs(splits=["train"]),
        "eval_args": tfx.proto.EvalArgs(splits=["eval"]),
    }
    nodes: list[BaseNode] = []
    if config.tuner.enabled:
        nodes.append(
            tfx.components.Tuner(
                tuner_fn="pipelines.tuner.tuner_fn",
                custom_config=tuner_config(
                    tree,
                    name=config.name,
                    runs=f"{root}/tuner",
                    space=config.tuner.space,
                    trials=config.tuner.trials,
                    steps=config.tuner.steps,
                ),
                **shared,
            )
        )
        shared["hyperparameters"] = nodes[0].outputs["best_hyperparameters"]
    trainer = tfx.components.Trainer(
        run_fn="pipelines.trainer.run_fn",
        custom_config=trainer_config(
            tree,
            name=config.name,
            runs=f"{root}/trainer",
            export=config.export.model_dump(exclude_none=True),
        ),
        **shared,
    )
    return [*nodes, trainer]


def _baseline(model: BaseChannel, destination: str | None) -> BaseNode:
    """Args: destination: of the versions; None: not on this machine, and Kubeflow's compiler."""
    channels = {
        "model": tfx.dsl.Channel(type=Model),
        "model_blessing": tfx.dsl.Channel(type=ModelBlessing),
    }
    if destination is None:  # of custom strategies, Kubeflow's compiler knows none
        strategy = tfx.dsl.experimental.LatestBlessedModelStrategy
        return tfx.dsl.Resolver(strategy_class=strategy, **channels).with_id(BASELINE)
    channels["infra_blessing"] = tfx.dsl.Channel(type=InfraBlessing)
    return tfx.dsl.Resolver(
        strategy_class=ServedOrLatestBlessed,
        config={"destination": destination},
        candidate=model,
        **channels,
    ).with_id(BASELINE)


def _policy(config: PipelineConfig) -> EvaluationPolicy:
    rule = config.data.rule
    assert rule is not None
    policy = config.evaluation.policy(rule.kind)
    train = make_config(merged(train_tree(config), {"data": {"images": "records"}}))
    classes = class_names(train, rule.resolve(rule.stated() or (0,)))
    require_known(policy, classes, instances=rule.kind == "instances")
    return policy


def _infra(config: PipelineConfig, model: BaseChannel, records: BaseChannel) -> BaseNode:
    if config.infra.server == "docker":
        return docker_infra_validator(model, records, seconds=config.infra.seconds)
    return ServerInfraValidator(
        model=model, examples=records, seconds=config.infra.seconds
    ).with_id("InfraValidator")
