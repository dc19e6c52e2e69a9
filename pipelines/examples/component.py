"""ImageExampleGen, the pipeline's first component."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.artifact import Artifact
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from keras_unet.errors import ConfigError
from pipelines.examples.driver import Driver
from pipelines.examples.executor import Executor
from pipelines.examples.options import ExampleOptions

BUCKETS = 1000  # hash buckets of all splits together


class DeadLetters(Artifact):
    """Images that are in no split, and why: `dead_letters.jsonl` (file, found, expected).

    Custom properties `images` and `bad` count them: Kubeflow's compiler refuses declared ones.
    """

    TYPE_NAME = "keras_unet.DeadLetters"  # Kubeflow wants a prefix


class ImageExampleGenSpec(types.ComponentSpec):
    """TFX's `FileBasedExampleGenSpec`, with options and dead letters."""

    PARAMETERS = {  # noqa: RUF012
        **standard_component_specs.FileBasedExampleGenSpec.PARAMETERS,
        "options": ExecutionParameter(type=str),
    }
    INPUTS: dict = {}  # noqa: RUF012
    OUTPUTS = {  # noqa: RUF012
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "dead_letters": ChannelParameter(type=DeadLetters),
    }


class ImageExampleGen(FileBasedExampleGen):
    """Labelled images to sharded, compressed TFRecords, split and checked.

    Outputs: `examples`, records as `keras_unet.data.records` has them, with the border term and
    the statistics of `pipelines.examples.record`; and `dead_letters`.

    On Kubeflow, TFX's own driver takes the fingerprint, of the files that the pattern matches: of
    a manifest only the table, so touch it when an image changes.

    Args:
        input_base: folder of the data.
        options: what labels mean, groups, border term, how many bad images are tolerated.
        pattern: which files below it, see `items.list_source`; may hold `{SPAN}`, `{VERSION}` or
            dates as TFX has them: the latest span is read, unless `range_config` says another.
        eval_share: of the hashes, for the split `eval`; the others go to `train`.
        input_config: instead of pattern and eval_share, splits that are given as such, for
            example `train/*/*` and `val/*/*`.

    Raises:
        ConfigError: label values are left open, or a share out of range.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        input_base: str,
        options: ExampleOptions,
        pattern: str = "*/*",
        eval_share: float = 0.2,
        input_config: example_gen_pb2.Input | None = None,
        range_config: range_config_pb2.RangeConfig | None = None,
    ) -> None:
        held_out = round(BUCKETS * eval_share)
        if not 0 < held_out < BUCKETS:
            raise ConfigError(f"eval_share is {eval_share}; expected more than 0 and less than 1")
        output: Any = example_gen_pb2.Output()
        if input_config is None:
            split = example_gen_pb2.Input.Split(name="all", pattern=pattern)
            input_config = example_gen_pb2.Input(splits=[split])
            for name, count in (("train", BUCKETS - held_out), ("eval", held_out)):
                output.split_config.splits.add(name=name, hash_buckets=count)
        spec = ImageExampleGenSpec(
            input_base=input_base,
            input_config=input_config,
            output_config=output,
            range_config=range_config,
            output_data_format=example_gen_pb2.FORMAT_TF_EXAMPLE,
            output_file_format=example_gen_pb2.FORMAT_TFRECORDS_GZIP,
            options=options.require_stated().model_dump_json(),
            examples=types.Channel(type=standard_artifacts.Examples),
            dead_letters=types.Channel(type=DeadLetters),
        )
        # not FileBasedExampleGen's, which makes a specification of its own
        base_beam_component.BaseBeamComponent.__init__(self, spec=spec)
