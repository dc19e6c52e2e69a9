"""The checks through TFX's own components: one pipeline, week after week, with broken batches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from pipeline_records import write_records
from tfx import v1 as tfx
from tfx.orchestration.metadata import sqlite_metadata_connection_config

from pipelines.checks.nodes import data_checks
from pipelines.checks.settings import CheckSettings
from pipelines.sections import BeamSettings
from pipelines.trouble import message

SPLITS = {"train": 60, "eval": 50}
SETTINGS = CheckSettings(values=(0, 1), dtypes=("uint8",))


def good(split, k, image, labels):
    return image, labels


def colour_among_grey(split, k, image, labels):
    return (np.repeat(image, 3, -1), labels) if split == "train" and k < 6 else (image, labels)


def shifted_labels(split, k, image, labels):
    return image, (labels + (labels > 0) if k % 2 else labels)  # 0, 2 in every second image


def empty_masks(split, k, image, labels):
    return image, (np.zeros_like(labels) if k % 4 == 0 else labels)


def no_masks_at_all(split, k, image, labels):
    return image, np.zeros_like(labels)


def brighter(split, k, image, labels):
    return np.minimum(image * 1.6, 255).astype(np.uint8), labels


def darker_for_evaluation(split, k, image, labels):
    return (image // 2 if split == "eval" else image), labels


class Weeks:
    """A pipeline of records, checks and gate, run for one span at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, span: int, change, seed: int) -> None:
        folder = self.root / "data" / f"span-{span}"
        write_records(folder, SPLITS, change, instances=False, seed=seed)

    def run(self, span: int, **changes: Any) -> None:
        ranges = tfx.proto.StaticRange(start_span_number=span, end_span_number=span)
        examples = tfx.components.ImportExampleGen(
            input_base=str(self.root / "data"),
            input_config=tfx.proto.Input(
                splits=[
                    tfx.proto.Input.Split(name=name, pattern=f"span-{{SPAN}}/{name}/*")
                    for name in SPLITS
                ]
            ),
            range_config=tfx.proto.RangeConfig(static_range=ranges),
        )
        checks = data_checks(
            examples.outputs["examples"],
            SETTINGS.model_copy(update=changes),
            str(self.root / "schema"),
        )
        tfx.orchestration.LocalDagRunner().run(
            tfx.dsl.Pipeline(
                pipeline_name="weeks",
                pipeline_root=str(self.root / "artifacts"),
                components=[examples, *checks.nodes],
                enable_cache=True,
                metadata_connection_config=sqlite_metadata_connection_config(self.database),
                beam_pipeline_args=BeamSettings().flags,
            )
        )

    def stopped(self, span: int, **changes: Any) -> str:
        """What the user reads."""
        with pytest.raises(Exception) as caught:  # TFX wraps it differently by runner
            self.run(span, **changes)
        text = message(caught.value)
        assert "the data checks found" in text
        return text

    @property
    def database(self) -> str:
        return str(self.root / "metadata.sqlite")

    def executions(self) -> list[tuple[str, str]]:
        """(component, state), oldest first, of what the store holds."""
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = self.database
        store = MetadataStore(config)
        kinds = {kind.id: kind.name.split(".")[-1] for kind in store.get_execution_types()}
        names = metadata_store_pb2.Execution.State.Name
        found = sorted(store.get_executions(), key=lambda execution: execution.id)
        return [(kinds[one.type_id], names(one.last_known_state)) for one in found]

    def pages(self) -> Path:
        """Of the newest report."""
        return max((self.root / "artifacts" / "DataReport" / "pages").iterdir(), key=_number)


def _number(path: Path) -> int:
    return int(path.name)


@pytest.fixture(scope="module")
def weeks(tmp_path_factory) -> Weeks:
    """The first batch, a good one, has passed; nothing was there to compare it with."""
    weeks = Weeks(tmp_path_factory.mktemp("weeks"))
    weeks.add(1, good, seed=0)
    weeks.run(1)
    return weeks


def test_a_good_batch_passes_and_again_from_the_cache(weeks):
    first = weeks.executions()
    assert ("AnomalyGate", "COMPLETE") in first
    assert json.loads((weeks.pages() / "findings.json").read_text()) == []
    weeks.run(1)
    again = weeks.executions()[len(first) :]
    assert len(again) == len(first)
    assert {state for name, state in again if name != "Resolver"} == {"CACHED"}


def test_colour_among_grey_stops_the_run(weeks):
    weeks.add(2, colour_among_grey, seed=0)
    text = weeks.stopped(2)
    assert "train: image/channels: found 3 in 6 of 60 images (10%); expected 1; in " in text
    assert "; in train-0, train-1, train-2, train-3, train-4, train-5\n" in text
    assert "eval: image/channels" not in text
    before = weeks.executions()
    assert before[-1] == ("AnomalyGate", "FAILED")
    page = (weeks.pages() / "anomalies.html").read_text()
    assert "image/channels" in page and "in train-0, train-1" in page


def test_shifted_labels_stop_the_run(weeks):
    weeks.add(3, shifted_labels, seed=0)
    text = weeks.stopped(3)
    assert (
        "train: label/values: found 2 in 30 of 60 images (50%); expected 0 to 1; in train-1,"
        in text
    )
    assert (
        "eval: label/values: found 2 in 25 of 50 images (50%); expected 0 to 1; in eval-1," in text
    )
    assert "eval-17, eval-19, …\n" in text  # no more than ten
    assert "data.label_values" in text  # the way out


def test_empty_masks_stop_the_run(weeks):
    weeks.add(4, empty_masks, seed=0)
    text = weeks.stopped(4)
    assert "train: label/diameter: found it in 45 of 60 images (75%); expected it in 90%" in text
    assert "; in train-0, train-4, train-8" in text


@pytest.mark.slow
def test_an_export_without_any_mask_stops_the_run(weeks):
    weeks.add(7, no_masks_at_all, seed=0)
    text = weeks.stopped(7)
    for split in SPLITS:
        (line,) = re.findall(rf"- {split}: label/diameter: (.*)", text)
        assert line.startswith("found it in no image; expected it in 90% or more; in ")


def test_drift_stops_the_run_until_it_is_said_to_be_meant(weeks):
    weeks.add(5, brighter, seed=0)
    text = weeks.stopped(5)
    assert re.search(r"train: image/mean: found a median of \d+.*at most 0.25 from the last", text)
    assert "label/diameter" not in text
    assert weeks.stopped(5) == text  # a batch that failed does not become the measure
    weeks.run(5, tolerated=("image/mean", "image/std"))
    findings = json.loads((weeks.pages() / "findings.json").read_text())
    assert {one["feature"] for one in findings} == {"image/mean", "image/std"}
    assert not any(one["stops"] for one in findings)


@pytest.mark.slow
def test_skew_between_the_splits_stops_the_run(weeks):
    weeks.add(6, darker_for_evaluation, seed=0)
    text = weeks.stopped(6, drift=False)
    assert re.search(r"eval: image/mean: found .* from the training split, which has", text)
    # The evaluation split has 50 images: too few to judge by their divergence, but splits that have
    # nothing in common stop the run all the same.
    text = weeks.stopped(6, drift=False, min_images=51)
    assert "nothing in common (50 against 60 images)" in text
