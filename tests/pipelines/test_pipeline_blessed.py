"""Which model is the baseline: the latest blessed one before the candidate."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

from tfx.types.standard_artifacts import Model, ModelBlessing

from pipelines.blessed import LatestBlessedBefore

pytestmark = pytest.mark.tfx


def model(number):
    one = Model()
    one.id = number
    return one


def blessing(of, blessed):
    one = ModelBlessing()
    one.set_int_custom_property("current_model_id", of)
    one.set_int_custom_property("blessed", blessed)
    return one


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (9, [5]),  # 7 was not blessed
        (7, [5]),
        (5, [2]),  # not itself, though it is blessed: a rerun finds what the first run found
        (2, []),
    ],
)
def test_the_latest_blessed_before(candidate, expected):
    found = LatestBlessedBefore().resolve_artifacts(
        store=None,
        input_dict={
            "model": [model(n) for n in (2, 9, 7, 5)],
            "model_blessing": [blessing(2, 1), blessing(5, 1), blessing(7, 0), blessing(9, 1)],
            "candidate": [model(candidate)],
        },
    )
    assert [one.id for one in found["model"]] == expected
    assert [one.id for one in found["candidate"]] == [candidate]
