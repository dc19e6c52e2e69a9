"""The Beam part of ImageExampleGen on more than one process: the same files on every runner."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("tfx")

import apache_beam as beam
import tensorflow as tf
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from keras_unet.data import LabelRule
from keras_unet.data.synthetic import write_dataset
from pipelines.examples import DeadLetters, ExampleOptions, ImageExampleGen, shards
from pipelines.examples.executor import Executor
from pipelines.examples.items import list_source
from pipelines.examples.plan import list_pairs, to_lines
from pipelines.sections import BeamSettings

pytestmark = pytest.mark.tfx

OPTIONS = ExampleOptions(rule=LabelRule(kind="instances"), records_per_shard=2, max_bad_share=0.5)
DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Eight images, one of them torn."""
    folder = write_dataset(tmp_path_factory.mktemp("cells"), train=8, val=1, size=(64, 64), seed=0)
    torn = min((folder / "train" / "images").iterdir())
    torn.write_bytes(torn.read_bytes()[:50])
    return folder / "train"


def produce(cells, out: Path, *beam_args):
    """Every record by file, and the summary, as the executor makes them with Beam's flags."""
    shutil.rmtree(out, ignore_errors=True)
    component = ImageExampleGen(str(cells), OPTIONS, eval_share=0.5)
    examples, letters = standard_artifacts.Examples(), DeadLetters()
    examples.uri, letters.uri = str(out / "examples"), str(out / "letters")
    (out / "letters").mkdir(parents=True)
    flags = list(beam_args or BeamSettings().flags)
    context = BaseBeamExecutor.Context(beam_pipeline_args=flags, unique_id="1")
    outputs = {"examples": [examples], "dead_letters": [letters]}
    with mock.patch("sys.argv", sys.argv[:1]):  # Beam's flags are read after pytest's
        Executor(context).Do({}, outputs, dict(component.exec_properties))
    records = {
        str(file.relative_to(examples.uri)): list(
            tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()
        )
        for file in Path(examples.uri).rglob("*.gz")
    }
    return records, tuple(letters.get_int_custom_property(name) for name in ("images", "bad"))


@pytest.fixture(scope="module")
def expected(cells, tmp_path_factory):
    records, counts = produce(cells, tmp_path_factory.mktemp("one"))
    assert counts == (8, 1)
    assert sum(map(len, records.values())) == 7
    assert len(records) >= 4
    return records


def test_bad_and_written_ones_are_counted_by_beam(cells, tmp_path):
    pairs, _ = list_pairs(list_source(str(cells), "*/*"), OPTIONS)
    plan = tmp_path / "plan.jsonl"
    plan.write_text(to_lines(pairs))
    task = shards.ShardTask("train", str(plan), str(tmp_path / "a.gz"), str(tmp_path / "told"))
    pipeline = beam.Pipeline(argv=BeamSettings().flags)
    _ = pipeline | beam.Create([task]) | beam.ParDo(shards.WriteShard(OPTIONS.model_dump_json()))
    result = pipeline.run()
    result.wait_until_finish()
    found = {m.key.metric.name: m.committed for m in result.metrics().query()["counters"]}
    assert (found["written"], found["bad"]) == (7, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gz", "plan.jsonl", "told"]


@pytest.mark.slow
def test_two_worker_processes(cells, expected, tmp_path):
    flags = BeamSettings(workers=2).flags
    assert produce(cells, tmp_path / "out", *flags) == (expected, (8, 1))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Dask scheduler and two worker processes; gives the scheduler's address."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    base = [sys.executable, "-W", "ignore", "-m", "distributed.cli"]
    scheduler = ["dask_scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard"]
    worker = ["dask_worker", "--host=127.0.0.1", "--nthreads=1", "--no-dashboard", "--no-nanny"]
    started = []
    for number, arguments in enumerate((scheduler, worker, worker)):
        command = [*base[:-1], f"distributed.cli.{arguments[0]}", *arguments[1:]]
        command += [f"--scheduler-file={file}"]
        command += [f"--local-directory={folder / str(number)}"] if number else []
        log = (folder / f"{number}.log").open("w")
        started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=quiet))
    from dask.distributed import Client

    try:
        for _ in range(1200):
            if file.exists() and file.read_text():
                break
            assert all(process.poll() is None for process in started), folder
            time.sleep(0.1)
        with Client(scheduler_file=str(file), timeout=120) as client:
            client.wait_for_workers(2, timeout=120)
            yield client
    finally:
        for process in started:  # on SIGTERM a worker may wait long for the clients it knows
            process.kill()
        for process in started:
            process.wait()


@pytest.mark.slow
def test_two_worker_processes_of_dask(cells, expected, cluster, tmp_path):
    from dask.distributed import get_task_stream

    address = cluster.scheduler.address
    flags = (f"--runner={DASK}", f"--dask_client_address={address}", "--dask_partition_size=1")
    with get_task_stream(cluster) as stream:
        assert produce(cells, tmp_path / "out", *flags) == (expected, (8, 1))
    assert len({task["worker"] for task in stream.data}) == 2  # both took part
