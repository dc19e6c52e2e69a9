"""Which model is the baseline: the latest blessed one that is not the candidate."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing

from pipelines.blessed import LatestBlessedOther

pytestmark = pytest.mark.tfx


def model(number):
    one = Model()
    one.id = number
    return one


def blessing(of, blessed, kind=ModelBlessing):
    one = kind()
    if of is not None:  # TFX's InfraValidator names no model
        one.set_int_custom_property("current_model_id", of)
    one.set_int_custom_property("blessed", blessed)
    return one


def resolved(candidate, *infra):
    return LatestBlessedOther().resolve_artifacts(
        store=None,
        input_dict={
            "model": [model(n) for n in (2, 9, 7, 5)],
            "model_blessing": [blessing(2, 1), blessing(5, 1), blessing(7, 0), blessing(9, 1)],
            "infra_blessing": [blessing(*one, InfraBlessing) for one in infra],
            "candidate": [model(candidate)],
        },
    )


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (11, 9),  # the next one
        (9, 5),  # not itself, and 7 was not blessed: a rerun finds what the first run found
        (5, 9),  # settings gone back to: what is served now is newer
        (2, 9),
    ],
)
def test_the_latest_blessed_other(candidate, expected):
    found = resolved(candidate)
    assert [one.id for one in found["model"]] == [expected]
    assert found["model_blessing"][0].get_int_custom_property("current_model_id") == expected
    assert [one.id for one in found["candidate"]] == [candidate]


@pytest.mark.parametrize(
    ("infra", "expected"),
    [
        ([(9, 1)], 9),
        ([(9, 0)], 5),  # never published
        ([(9, 0), (9, 1)], 9),  # tried again, and it could be served
        ([(9, 0), (5, 0)], 2),
        ([(None, 0)], 9),  # of TFX's InfraValidator: whose it is cannot be told
    ],
)
def test_what_no_server_could_serve_is_no_measure(infra, expected):
    assert [one.id for one in resolved(11, *infra)["model"]] == [expected]


def test_the_first_model_has_none():
    channels = {key: [] for key in ("model", "model_blessing", "infra_blessing")}
    found = LatestBlessedOther().resolve_artifacts(None, {**channels, "candidate": [model(1)]})
    assert found["model"] == [] and [one.id for one in found["candidate"]] == [1]
    alone = {**channels, "model": [model(1)], "model_blessing": [blessing(1, 1)]}
    found = LatestBlessedOther().resolve_artifacts(None, {**alone, "candidate": [model(1)]})
    assert found["model"] == []
