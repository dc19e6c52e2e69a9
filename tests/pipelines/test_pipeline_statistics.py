"""Statistics of the records: what is counted, what is left alone, and the pages that show it."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import tensorflow_data_validation as tfdv
from pipeline_records import record
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx_bsl.coders import batch_util
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from pipelines.checks.batches import bound_batches
from pipelines.checks.findings import Finding
from pipelines.checks.pages import anomalies_page, shares, statistics_page
from pipelines.checks.report import _facets
from pipelines.checks.schema import curated_schema
from pipelines.checks.statistics import Summary, read_statistics, statistics_options

COUNT = 24
FLAG = "tfxio_use_byte_size_batching"


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(k, 200, (20, 30, 1), dtype=np.uint8) for k in range(COUNT)]


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """As StatisticsGen leaves it: the splits "train" and "eval"; a third of the masks is empty."""
    folder = tmp_path_factory.mktemp("statistics")
    options = tfdv.StatsOptions.from_json(statistics_options().to_json())  # as TFX hands them on
    options.schema = curated_schema()
    for split in ("train", "eval"):
        data = []
        for k, image in enumerate(images):
            labels = np.zeros(image.shape[:2], np.int32)
            if k % 3:
                labels[3:7, 4:9], labels[10:14, 4:9] = 1, 2
            data.append(record(f"{split}-<{k}>", image, labels))
        batch = ExamplesToRecordBatchDecoder().DecodeBatch(data)
        (folder / f"Split-{split}").mkdir()
        found = generate_statistics_in_memory(batch, options)
        (folder / f"Split-{split}" / "FeatureStats.pb").write_bytes(found.SerializeToString())
    return folder


def test_numbers_are_those_of_the_images(folder, images):
    found = read_statistics(str(folder))
    assert list(found) == ["train", "eval"]
    train = found["train"]
    means = [float(image.mean()) for image in images]
    assert train["image/mean"].low == pytest.approx(min(means))
    assert train["image/mean"].high == pytest.approx(max(means))
    assert train["image/mean"].mean == pytest.approx(np.mean(means))
    assert sum(count for *_, count in train["image/mean"].bars) == pytest.approx(COUNT)
    assert train["label/cells"].high == 2
    assert train["label/diameter"].images == COUNT * 2 // 3
    assert train["label/diameter"].missing == COUNT // 3
    assert train["label/diameter"].median == pytest.approx(2 * np.sqrt(20 / np.pi), rel=1e-6)
    assert dict(train["label/values"].values) == {"0": COUNT, "1": COUNT * 2 // 3}
    assert train["image/dtype"].values == (("uint8", COUNT),)


def test_encoded_pixels_are_left_alone(folder, images):
    """No histogram of megabytes of bytes, no list of them: only how many they are."""
    for name in ("image/encoded", "label/encoded", "weight/border"):
        summary = read_statistics(str(folder))["train"][name]
        assert (summary.images, summary.values, summary.bars) == (COUNT, (), ())
    stored = (folder / "Split-train" / "FeatureStats.pb").read_bytes()
    assert len(stored) < COUNT * images[0].size
    assert b"PNG" not in stored


def test_a_good_set_has_no_anomaly_but_empty_masks(folder):
    found = tfdv.load_stats_binary(str(folder / "Split-train" / "FeatureStats.pb"))
    anomalies = tfdv.validate_statistics(found, curated_schema())
    assert list(anomalies.anomaly_info) == ["label/diameter"]


def test_shares_are_laid_on_other_edges():
    bars = ((0.0, 2.0, 6.0), (2.0, 4.0, 2.0))
    summary = Summary(feature="x", images=8, whole=8, bars=bars)
    assert shares(summary, [0, 1, 2, 4]) == pytest.approx([0.375, 0.375, 0.25])
    constant = Summary(feature="x", images=8, whole=8, bars=((4.0, 4.0, 8.0),))
    assert shares(constant, [0, 2, 4]) == [0.0, 1.0]
    assert shares(constant, [3.5, 4.0, 4.5]) == [0.0, 1.0]


def test_pages_need_no_network_and_trust_no_name(folder):
    found = read_statistics(str(folder))
    statistics = statistics_page(found, {"train": found["eval"]})
    finding = Finding(
        check="schema", split="train", feature="image/dtype", found="<script>", expected="uint8"
    )
    anomalies = anomalies_page([finding], found)
    for page in (statistics, anomalies):
        assert not re.search(r"(src|href)=\"https?:", page)
        assert "default-src &#x27;none&#x27;" in page
    assert "train-&lt;" in statistics and "train-<" not in statistics
    assert "&lt;script&gt;" in anomalies
    assert "train, last batch" in statistics
    assert statistics.count("<figure") == 5
    assert "1 of them stop the run" in anomalies


def test_facets_has_both_splits(folder):
    page = _facets(str(folder), ["train", "eval"])
    assert "facets-overview" in page
    (data,) = re.findall(r'proto-input="([^"]+)"', page)
    found = statistics_pb2.DatasetFeatureStatisticsList.FromString(base64.b64decode(data))
    assert {one.name: one.num_examples for one in found.datasets} == {"train": COUNT, "eval": COUNT}


def test_batches_are_bounded_in_bytes(monkeypatch):
    flag = batch_util._USE_BYTE_SIZE_BATCHING._flagvalues[FLAG]
    monkeypatch.setattr(flag, "default", False)
    monkeypatch.setattr(flag, "_value", False)  # a pipeline made before may have set it
    assert batch_util.GetBatchElementsKwargs(None)["max_batch_size"] == 1000
    bound_batches()
    kwargs = batch_util.GetBatchElementsKwargs(None)
    assert kwargs["max_batch_size"] == 20 * 2**20
    assert kwargs["element_size_fn"](bytes(2**20)) == 2**20
