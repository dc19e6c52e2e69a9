"""ImageExampleGen's work: lists the images, has Beam write the shards, and judges the bad ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from absl import logging
from tfx.components.example_gen import utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from keras_unet.data import Pair, Problem
from keras_unet.errors import DataError
from pipelines.examples import shards
from pipelines.examples.items import list_source, listed_lines
from pipelines.examples.options import ExampleOptions
from pipelines.examples.plan import list_pairs, make_shards, split_pairs, to_lines

LETTERS, SUMMARY = "dead_letters.jsonl", "summary.json"


class Executor(BaseBeamExecutor):
    """Not TFX's `BaseExampleGenExecutor`, whose writer takes records from Beam: see `shards`."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """Writes `Split-*/data_tfrecord-*.gz`, `dead_letters.jsonl` and `summary.json`.

        Raises:
            DataError: no images, a split without any, or more bad images than are tolerated;
                names the first of them and the file that names all.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        options = ExampleOptions.model_validate_json(exec_properties["options"])
        given, wanted = example_gen_pb2.Input(), example_gen_pb2.Output()
        proto_utils.json_to_proto(exec_properties["input_config"], given)
        proto_utils.json_to_proto(exec_properties["output_config"], wanted)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        letters = artifact_utils.get_single_instance(output_dict["dead_letters"])
        names = utils.generate_output_split_names(given, wanted)
        examples.split_names = artifact_utils.encode_split_names(names)
        examples_utils.set_payload_format(examples, exec_properties["output_data_format"])
        examples_utils.set_file_format(examples, "tfrecords_gzip")

        dealt, bad = _deal(exec_properties["input_base"], given, wanted, options)
        work = f"{examples.uri}/.work"
        fileio.makedirs(work)
        tasks = _tasks(dealt, examples, work, options.records_per_shard)
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(tasks)
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.ParDo(shards.WriteShard(options.model_dump_json()))
            )
        written = dict.fromkeys(dealt, 0)
        for task in tasks:
            told = json.loads(shards.read_text(task.summary))
            written[told["split"]] += told["written"]
            bad += [[Problem.model_validate(p) for p in image] for image in told["bad"]]
        fileio.rmtree(work)
        self._judge(bad, written, letters.uri, options.max_bad_share)
        for split, count in written.items():
            examples.set_int_custom_property(f"images_{split}", count)
        letters.set_int_custom_property("images", len(bad) + sum(written.values()))
        letters.set_int_custom_property("bad", len(bad))

    def _judge(
        self, bad: list[list[Problem]], written: Mapping[str, int], uri: str, most: float
    ) -> None:
        """Writes the dead letters; raises where there are too many, or a split has no record."""
        bad.sort(key=lambda image: image[0].file)
        problems = [problem for image in bad for problem in image]
        text = "".join(problem.model_dump_json() + "\n" for problem in problems)
        images = len(bad) + sum(written.values())
        place = f"{uri}/{LETTERS}"
        shards.write_text(place, text)
        summary = {"images": images, "written": dict(written), "bad": len(bad)}
        shards.write_text(f"{uri}/{SUMMARY}", json.dumps(summary, indent=1) + "\n")
        logging.info("ImageExampleGen: %s", summary)
        empty = [name for name, count in written.items() if not count]
        if len(bad) / images <= most and not empty:
            return
        if self._context and self._context.executor_output_uri:  # TFX removes what failed
            place = f"{self._context.executor_output_uri.rpartition('/')[0]}/{LETTERS}"
            shards.write_text(place, text)
        enough = math.ceil(100 * len(bad) / images) / 100
        why = (
            f"expected at most {most:.1%} (data.max_bad_share; {enough:g} goes on without them)"
            if not empty
            else f"expected some for the split {' and '.join(empty)}"
        )
        raise DataError(
            f"{len(bad)} of {images} images cannot be used ({len(bad) / images:.1%}); {why}:"
            f"{listed_lines(problems)}\nAll of them: {place}"
        )


def _deal(
    base: str, given: Any, wanted: Any, options: ExampleOptions
) -> tuple[dict[str, list[Pair]], list[list[Problem]]]:
    """The pairs of each split, and what is no pair."""
    dealt: dict[str, list[Pair]] = {}
    bad: list[list[Problem]] = []
    for split in given.splits:
        listing = list_source(base, split.pattern)
        dealt[split.name], problems = list_pairs(listing, options)
        bad += [[problem] for problem in problems]
    if wanted.split_config.splits:
        buckets = {split.name: split.hash_buckets for split in wanted.split_config.splits}
        try:
            dealt = split_pairs(_all(dealt), buckets, options.seed)
        except DataError as error:  # perhaps because the others cannot be used
            others = [problem for image in bad for problem in image]
            besides = f"\nWhat cannot be used:{listed_lines(others)}" if others else ""
            raise DataError(f"{error}{besides}") from None
    else:
        _require_apart(dealt)
    return dealt, bad


def _all(dealt: Mapping[str, list[Pair]]) -> Iterator[Pair]:
    for pairs in dealt.values():
        yield from pairs


def _require_apart(dealt: Mapping[str, list[Pair]]) -> None:
    """Raises DataError where a group is in two splits that were given as such."""
    place: dict[str, str] = {}
    for split, pairs in dealt.items():
        for group in {pair.group for pair in pairs} - {""}:
            other = place.setdefault(group, split)
            if other != split:
                raise DataError(
                    f"the group {group} is in the splits {other} and {split}; expected in one"
                )


def _tasks(
    dealt: Mapping[str, list[Pair]], examples: Any, work: str, per_shard: int
) -> list[shards.ShardTask]:
    """Writes the plan of each shard and says where all its files are."""
    tasks = []
    for split, pairs in dealt.items():
        uri = artifact_utils.get_split_uri([examples], split)
        fileio.makedirs(uri)
        planned = make_shards(pairs, per_shard)
        for number, shard in enumerate(planned):
            plan = f"{work}/{split}-{number:05d}.jsonl"
            shards.write_text(plan, to_lines(shard))
            name = f"data_tfrecord-{number:05d}-of-{len(planned):05d}.gz"
            tasks.append(shards.ShardTask(split, plan, f"{uri}/{name}", f"{plan}.summary"))
    return tasks
