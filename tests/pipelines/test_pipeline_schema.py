"""The curated schema: that it is of the records that are written, and what adapting changes."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import tensorflow as tf
from pipeline_records import record
from pydantic import ValidationError
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tensorflow_transform.tf_metadata.schema_utils import schema_as_feature_spec
from tfx.utils import io_utils

from keras_unet.data import LabelMapping, LabelRule, find_pairs, write_dataset
from keras_unet.data.samples import PairReader
from keras_unet.errors import ConfigError
from pipelines.checks.findings import (
    Finding,
    apart,
    message,
    of_comparison,
    of_schema,
    of_values,
    unjudged,
)
from pipelines.checks.schema import (
    adapted_schema,
    curated_schema,
    distribution_config,
    write_schema,
)
from pipelines.checks.settings import CheckSettings
from pipelines.checks.statistics import Summary
from pipelines.examples.options import ExampleOptions
from pipelines.examples.record import make_record


def by_name(schema):
    return {feature.name: feature for feature in schema.feature}


def test_it_names_the_features_that_are_written(tmp_path):
    """Not one more: TFDV calls it dropped. Not one fewer: Transform would lose it."""
    write_dataset(tmp_path, train=1, val=0, size=48)
    rule = LabelRule(kind="instances")
    (pair,) = find_pairs(tmp_path / "train").pairs
    with PairReader() as reader:
        made, problems = make_record(reader.read(pair, rule), ExampleOptions(rule=rule))
    assert not problems
    written = tf.train.Example.FromString(made).features.feature
    assert set(by_name(curated_schema())) == set(written)
    kinds = {1: "bytes_list", 2: "int64_list", 3: "float_list"}
    for name, feature in by_name(curated_schema()).items():
        assert written[name].WhichOneof("kind") == kinds[feature.type], name
    helper = record("a", np.zeros((9, 9, 1), np.uint8), np.eye(9, dtype=np.int32))
    assert set(tf.train.Example.FromString(helper).features.feature) == set(written)


def test_transform_can_parse_by_it():
    spec = schema_as_feature_spec(curated_schema()).feature_spec
    data = record("a", np.zeros((9, 9, 1), np.uint8), np.zeros((9, 9), np.int32))
    parsed = tf.io.parse_example([data], spec)
    assert parsed["image/height"].numpy().tolist() == [9]
    assert parsed["label/values"].values.numpy().tolist() == [0]
    assert parsed["label/diameter"].values.shape == (0,)  # no cells


def test_it_is_adapted_to_the_data_set():
    settings = CheckSettings(channels=3, values=(0, 7, 20), dtypes=("uint16",), min_labelled=0.5)
    found, curated = by_name(adapted_schema(settings)), by_name(curated_schema())
    assert (found["image/channels"].int_domain.min, found["image/channels"].int_domain.max) == (
        3,
        3,
    )
    assert (found["label/values"].int_domain.min, found["label/values"].int_domain.max) == (0, 20)
    assert list(found["image/dtype"].string_domain.value) == ["uint16"]
    assert found["label/diameter"].presence.min_fraction == 0.5
    changed = {name for name in found if found[name] != curated[name]}
    assert changed == {"image/channels", "image/dtype", "label/values", "label/diameter"}


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (LabelRule(kind="instances"), None),
        (LabelRule(num_classes=3), (0, 1, 2)),
        (LabelRule(num_classes=2), (0, 1, 255)),  # a mask of 0 and 255 is read by it too
        (LabelRule(values=(0, 255)), (0, 255)),
        (LabelRule(values=(3, 9), ignore=255), (3, 9)),  # records do not list the ignored value
        (LabelMapping(kind="semantic", values=(0, 255)), (0, 1, 255)),
    ],
)
def test_settings_follow_the_label_rule(labels, values):
    assert CheckSettings.of(labels, 1).values == values


def test_settings_refuse_what_they_cannot_check():
    with pytest.raises(ConfigError, match="names image/men; expected features: image/encoded"):
        adapted_schema(CheckSettings(tolerated=("image/mean", "image/men")))
    with pytest.raises(ConfigError, match="num_classes"):
        CheckSettings.of(LabelRule(), 1)
    with pytest.raises(ValidationError, match="min_labeled"):
        CheckSettings(min_labeled=0.5)
    with pytest.raises(ValidationError, match="two or more"):
        CheckSettings(values=(1,))


def test_thresholds_go_to_the_distribution_validators():
    schema = curated_schema()
    by_name(schema)["image/mean"].drift_comparator.jensen_shannon_divergence.threshold = 0.5
    found = {}
    for comparison in ("skew", "drift"):
        for one in distribution_config(schema, comparison).default_slice_config.feature:
            jsd = one.distribution_comparator.jensen_shannon_divergence.threshold
            found[comparison, one.path.step[0]] = jsd
    assert found["skew", "image/mean"] == 0.25
    assert found["drift", "image/mean"] == 0.5
    compared = {"image/dtype", "image/mean", "image/std", "label/foreground", "label/diameter"}
    assert {name for _, name in found} == compared


def test_another_schema_has_another_path(tmp_path):
    """TFX's cache sees the path alone."""
    grey, again, colour = (
        write_schema(adapted_schema(CheckSettings(channels=c)), str(tmp_path)) for c in (1, 1, 3)
    )
    assert grey == again != colour
    assert io_utils.SchemaReader().read(colour) == adapted_schema(CheckSettings(channels=3))
    assert not list(tmp_path.rglob("*.part"))


def summary(name: str, *values: tuple[str, int], whole: int = 10) -> dict[str, Summary]:
    return {name: Summary(feature=name, images=whole, whole=whole, values=values)}


def test_label_values_between_the_allowed_ones_are_found():
    settings = CheckSettings(values=(0, 128, 255))
    split = summary("label/values", ("0", 10), ("255", 9), ("127", 3), ("300", 1))
    (finding,) = of_values({"train": split}, settings)  # 300 is beyond: ExampleValidator's
    assert str(finding).endswith("127 in 3 of 10 images (30%); expected one of 0, 128, 255")
    assert finding.stops
    assert of_values({"train": summary("label/values", ("0", 10), ("128", 1))}, settings) == []
    tolerant = settings.model_copy(update={"tolerated": ("label/values",)})
    assert not of_values({"train": split}, tolerant)[0].stops


def test_words_for_what_the_statistics_do_not_know():
    """TFDV's own, rather than nothing."""
    anomalies = anomalies_pb2.Anomalies()
    reason = anomalies.anomaly_info["image/std"].reason.add()
    reason.description = "Float feature has NaN values."
    numbers = Summary(feature="image/std", images=4, whole=4, low=1.0, high=2.0)
    (finding,) = of_schema(
        {"Split-eval": anomalies},
        {"eval": {"image/std": numbers}},
        curated_schema(),
        CheckSettings(),
    )
    assert "found Float feature has NaN values; expected 0 or more, a finite number" in str(finding)
    (missing,) = of_schema(
        {"Split-eval": anomalies}, {"eval": {}}, curated_schema(), CheckSettings()
    )
    assert (missing.found, missing.expected) == ("it in no image", "it in every image")


def numbers(low, high, images):
    bounds = {"low": low, "high": high, "median": (low + high) / 2, "mean": (low + high) / 2}
    return {"image/mean": Summary(feature="image/mean", images=images, whole=images, **bounds)}


def compared(here, there, **settings):
    """What is found of a distance that is over the threshold."""
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["image/mean"].reason.add().description = "far apart"
    found = {"SplitPair-eval_train": anomalies}
    given = CheckSettings(**settings)
    return of_comparison("skew", found, {"eval": here}, {"train": there}, given)


@pytest.mark.parametrize(
    ("here", "there", "stops"),
    [
        (numbers(10, 50, 60), numbers(40, 90, 60), True),  # enough to be judged
        (numbers(10, 50, 10), numbers(40, 90, 60), False),  # too few, and they overlap
        (numbers(10, 50, 10), numbers(50, 90, 60), False),  # a value in common
        (numbers(10, 40, 10), numbers(50, 90, 60), True),  # nothing in common
        (numbers(50, 90, 6), numbers(10, 40, 26), True),
        (numbers(50, 90, 5), numbers(10, 40, 5), True),
        (numbers(50, 90, 4), numbers(10, 40, 4), False),  # 1 in 35 by chance
        (numbers(50, 50, 1), numbers(10, 40, 49), False),  # so is one image in 25
    ],
)
def test_small_batches_stop_only_where_nothing_is_in_common(here, there, stops):
    found = compared(here, there)
    assert [one.stops for one in found] == [True] * stops
    few = min(here["image/mean"].whole, there["image/mean"].whole) < 50
    assert all(("nothing in common" in one.found) == few for one in found)
    assert not any(one.stops for one in compared(here, there, tolerated=("image/mean",)))
    pairs, splits = [("eval", "train")], ({"eval": here}, {"train": there})
    said = unjudged("skew", pairs, *splits, CheckSettings())
    assert len(said) == few
    assert all("too few to judge (checks.min_images is 50)" in one for one in said)


def test_text_has_values_in_common_or_not():
    def dtypes(images, *names):
        values = tuple((name, images) for name in names)
        return Summary(feature="image/dtype", images=images, whole=images, values=values)

    assert apart(dtypes(6, "uint8"), dtypes(20, "uint16"))
    assert not apart(dtypes(6, "uint8", "uint16"), dtypes(20, "uint16"))
    assert not apart(dtypes(0), dtypes(20, "uint16"))


def test_the_message_has_each_advice_once():
    def finding(feature, advice, stops=True):
        return Finding(
            check="drift",
            split="train",
            feature=feature,
            found="1",
            expected="2",
            advice=advice,
            stops=stops,
        )

    text = message([finding("a", "mend"), finding("b", "mend"), finding("c", "", False)], "there")
    assert text.splitlines() == [
        "the data checks found 2 anomalies; nothing is trained on this batch.",
        "- train: a: found 1; expected 2",
        "- train: b: found 1; expected 2",
        "a, b: mend.",
        "The pages: there",
    ]
    assert message([finding("c", "", False)], "there") is None
