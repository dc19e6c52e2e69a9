"""The Pusher: twice blessed models only, once each, complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
from tfx.types import standard_artifacts

from keras_unet.errors import ExportError, RemoteError
from keras_unet.remote_path import RemotePath
from keras_unet.serving import publish, versions
from keras_unet.serving.bundle import fingerprint
from keras_unet.serving.card import read_origin
from keras_unet.serving.lineage import served_origin
from pipelines import models
from pipelines.pusher import VersionPusher


def blessings(tmp_path, model=True, infra=True, judged=None, infra_judged=None):
    """Of the Evaluator and the InfraValidator, of the trained model unless told otherwise.

    A blessing of None and a judged model of "" leave the property out, as TFX does.
    """

    def one(kind, blessed, judged):
        properties = {} if blessed is None else {"blessed": int(blessed)}
        if judged != "":
            properties["current_model"] = judged or made.trained().uri
        return made.artifact(kind, tmp_path / kind.TYPE_NAME, 3, **properties)

    return {
        "model_blessing": one(standard_artifacts.ModelBlessing, model, judged),
        "infra_blessing": one(standard_artifacts.InfraBlessing, infra, infra_judged),
    }


def push(tmp_path, blessed, model=None, name="pushed", **parameters):
    with made.answers_here():
        return pushed(tmp_path, blessed, model, name, **parameters)


def pushed(tmp_path, blessed, model=None, name="pushed", **parameters):
    result = made.output(standard_artifacts.PushedModel, tmp_path / name)
    inputs = {"model": made.trained() if model is None else model, **blessed}
    destination = str(tmp_path / "saved_models" / made.NAME)
    made.run(VersionPusher, inputs, {"pushed_model": result}, destination=destination, **parameters)
    return result


def test_a_model_blessed_twice_is_published_once(tmp_path):
    folder = tmp_path / "saved_models" / made.NAME
    first = pushed(tmp_path, blessings(tmp_path), metadata="/pipeline/metadata.sqlite")
    assert first.get_int_custom_property("pushed") == 1
    assert first.get_string_custom_property("pushed_version") == "1"
    assert first.get_string_custom_property("pushed_destination") == str(folder / "1")
    origin = read_origin(folder / "1")
    assert (origin.metadata, origin.model) == ("/pipeline/metadata.sqlite", 7)
    assert origin.fingerprint == fingerprint(folder / "1")
    # killed after the rename, before the metadata store knew: the same once more
    again = push(tmp_path, blessings(tmp_path), name="again")
    assert again.get_string_custom_property("pushed_version") == "1"
    assert versions(folder) == [1]
    assert {path.name for path in folder.iterdir()} == {"1", ".lock"}
    other = made.altered(tmp_path / "other", 8)
    push(tmp_path, blessings(tmp_path, judged=other.uri, infra_judged=""), other, "third", keep=1)
    assert versions(folder) == [2]


@pytest.mark.parametrize(
    ("blessed", "reason"),
    [
        ({"model": False}, "the Evaluator: not blessed"),
        ({"infra": False}, "the InfraValidator: not blessed"),
        ({"model": None}, "the Evaluator: not blessed"),
        ({"judged": "/model/6"}, "the Evaluator judged another model, /model/6; expected this one"),
        ({"infra_judged": "/model/6"}, "the InfraValidator judged another model, /model/6"),
    ],
)
def test_what_is_not_blessed_twice_is_not_published(tmp_path, blessed, reason):
    refused = push(tmp_path, blessings(tmp_path, **blessed))
    assert refused.get_int_custom_property("pushed") == 0
    assert reason in refused.get_string_custom_property("reason")
    assert not (tmp_path / "saved_models").exists()


def test_a_store_that_cannot_be_reached_is_no_folder_here(tmp_path, monkeypatch):
    """It was taken for a folder called `gs:` here, and the model for pushed."""
    monkeypatch.chdir(tmp_path)
    result = made.output(standard_artifacts.PushedModel, tmp_path / "pushed")
    inputs = {"model": made.trained(), **blessings(tmp_path)}
    before = set(tmp_path.iterdir())
    with pytest.raises(RemoteError, match="nosuch://bucket/tiny: nothing is installed"):
        made.run(
            VersionPusher, inputs, {"pushed_model": result}, destination="nosuch://bucket/tiny"
        )
    assert set(tmp_path.iterdir()) == before


def test_versions_go_to_a_store(tmp_path):
    folder = RemotePath(f"memory://{tmp_path.name}/models/{made.NAME}")
    result = made.output(standard_artifacts.PushedModel, tmp_path / "pushed")
    inputs = {"model": made.trained(), **blessings(tmp_path)}
    with made.answers_here():
        made.run(VersionPusher, inputs, {"pushed_model": result}, destination=str(folder))
    assert result.get_string_custom_property("pushed_destination") == f"{folder}/1"
    assert served_origin(folder).model == made.trained().id


def test_nothing_is_half_pushed(tmp_path, monkeypatch):
    """Killed while it copies; and a bundle that was damaged after it was blessed."""
    folder = tmp_path / "saved_models" / made.NAME

    class Killed(BaseException):
        pass

    def torn(beside):
        (beside / "saved_model.pb").unlink()
        beside.rename(folder / ".unfinished-1")  # what SIGKILL leaves: no cleaning up
        raise Killed

    monkeypatch.setattr(publish, "check_bundle", torn)
    with pytest.raises(Killed):
        push(tmp_path, blessings(tmp_path), name="killed")
    monkeypatch.undo()
    assert versions(folder) == []
    damaged = made.copied(tmp_path / "damaged")
    weights = Path(models.serving_folder(damaged.uri)) / "variables/variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(ExportError):
        push(tmp_path, blessings(tmp_path, judged=damaged.uri, infra_judged=""), damaged, "second")
    assert versions(folder) == []
    push(tmp_path, blessings(tmp_path), name="last")
    assert {path.name for path in folder.iterdir()} == {"1", ".lock"}
