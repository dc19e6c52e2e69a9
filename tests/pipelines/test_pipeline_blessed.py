"""Which model is the baseline: the served one, or the latest blessed, but not the candidate."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing

from keras_unet.serving.card import LINEAGE, Origin
from pipelines.blessed import ServedOrLatestBlessed

pytestmark = pytest.mark.tfx


def model(number):
    one = Model()
    one.id = number
    one.uri = f"/models/{number}"
    return one


def blessing(of, blessed, kind=ModelBlessing):
    one = kind()
    if of is not None:  # TFX's InfraValidator names no model
        one.set_int_custom_property("current_model_id", of)
    one.set_int_custom_property("blessed", blessed)
    return one


def resolved(candidate, *infra, destination=""):
    return ServedOrLatestBlessed(destination).resolve_artifacts(
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
        (5, 9),  # settings gone back to: there is a newer one
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


def published(folder, number, of, uri=None):
    (folder / number / "assets.extra").mkdir(parents=True)
    origin = Origin(metadata="m", model=of, uri=uri or f"/models/{of}", fingerprint="f")
    (folder / number / LINEAGE).write_text(origin.model_dump_json())


@pytest.mark.parametrize(
    ("served", "candidate", "infra", "expected"),
    [
        (5, 11, (), 5),  # gone back to: what is served is the measure, not the latest, 9
        (2, 11, (), 2),
        (9, 11, (), 9),
        (5, 5, (), 9),  # itself; then as without
        (7, 11, (), 9),  # never blessed: pushed by other means
        (5, 11, ((5, 0),), 9),  # refused by the InfraValidator
        (4, 11, (), 9),  # of another store
    ],
)
def test_what_is_served_is_the_measure(tmp_path, served, candidate, infra, expected):
    published(tmp_path, "1", 2)
    published(tmp_path, "0003", served)  # as rollback leaves it: the copy has the older's origin
    (tmp_path / "99999999999999999999").mkdir()  # no version
    found = resolved(candidate, *infra, destination=str(tmp_path))
    assert [one.id for one in found["model"]] == [expected]


def test_a_model_of_that_number_in_another_store_is_no_measure(tmp_path):
    published(tmp_path, "1", 5, uri="/elsewhere/5")
    assert [one.id for one in resolved(11, destination=str(tmp_path))["model"]] == [9]


def test_what_was_exported_by_hand_is_no_measure(tmp_path):
    (tmp_path / "4").mkdir()
    for folder in (tmp_path, tmp_path / "absent"):
        assert [one.id for one in resolved(11, destination=str(folder))["model"]] == [9]


def test_the_first_model_has_none():
    channels = {key: [] for key in ("model", "model_blessing", "infra_blessing")}
    found = ServedOrLatestBlessed().resolve_artifacts(None, {**channels, "candidate": [model(1)]})
    assert found["model"] == [] and [one.id for one in found["candidate"]] == [1]
    alone = {**channels, "model": [model(1)], "model_blessing": [blessing(1, 1)]}
    found = ServedOrLatestBlessed().resolve_artifacts(None, {**alone, "candidate": [model(1)]})
    assert found["model"] == []
