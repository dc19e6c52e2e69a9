"""Publishing on an object store, in TensorFlow's and fsspec's memory: whole or not at all."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from conftest import make_trained
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ConfigError, ExportError, RemoteError
from keras_unet.models import in_float32, load_model, save_model
from keras_unet.remote_path import RemotePath
from keras_unet.serving import export, folders, publish, publish_bundle, rollback, versions
from keras_unet.serving.card import describe, read_rollback
from keras_unet.serving.server.model_files import Mirror


@pytest.fixture(params=["ram", "memory", "local"])
def folder(request, tmp_path):
    if request.param != "ram":
        pytest.importorskip("fsspec")
    if request.param == "local":
        return RemotePath(f"local://{tmp_path}/bucket/models/unet")
    return RemotePath(f"{request.param}://{uuid.uuid4().hex}/models/unet")


@pytest.fixture
def made(tmp_path):
    """What looks like a version, small and quick."""
    (tmp_path / "made" / "variables").mkdir(parents=True)
    (tmp_path / "made" / "assets").mkdir()
    for name in ("saved_model.pb", "variables/variables.index", "zz", "assets/card.json"):
        (tmp_path / "made" / name).write_text(name)
    return tmp_path / "made"


def put(folder, made):
    with folders.claimed(folder) as number:
        return folders.upload(made, folder, number)


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_a_version_is_numbered_and_nothing_else_stays(folder, made):
    (folder / "0007").put(made)
    (folder / "20261130052033123456789").put(made)  # beyond int64: no version
    assert put(folder, made) == folder / "8"
    assert put(folder, made) == folder / "9"
    assert versions(str(folder)) == [7, 8, 9]
    assert sorted((folder / "9").files()) == sorted((folder / "0007").files())
    assert names(folder) == ["0007", "20261130052033123456789", "8", "9"]
    assert folders.retire_remote(folder, 1, pinned={7}) == [8]
    assert sorted(folders.complete(folder)) == [7, 9]


def test_who_sees_the_model_sees_all_of_it(folder, made, monkeypatch):
    """Whatever a server sees after each object that appears: saved_model.pb comes last."""
    seen, move = [], RemotePath.move

    def watched(self, target):
        move(self, target)
        seen.append(sorted((folder / "1").files()))
        assert not folders.complete(folder) or len(seen[-1]) == 4

    monkeypatch.setattr(RemotePath, "move", watched)
    put(folder, made)
    assert [len(files) for files in seen] == [1, 2, 3, 4]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_failure_on_the_way_publishes_nothing(folder, made, monkeypatch, at):
    move, count = RemotePath.move, iter(range(9))

    def failing(self, target):
        if next(count) == at:
            raise RemoteError("the network is gone")
        move(self, target)

    monkeypatch.setattr(RemotePath, "move", failing)
    with pytest.raises(RemoteError, match="the network is gone"):
        put(folder, made)
    monkeypatch.undo()
    assert not folder.exists() or names(folder) == []
    assert put(folder, made) == folder / "1"


def test_bytes_that_the_store_changed_are_found(folder, made, monkeypatch):
    put_ = RemotePath.put

    def torn(self, local):
        put_(self, local)
        (self / "variables/variables.index").write_text("torn")

    monkeypatch.setattr(RemotePath, "put", torn)
    with pytest.raises(ExportError, match="variables.index: is not what was uploaded"):
        put(folder, made)
    assert not folder.exists() or names(folder) == []


def test_what_a_killed_publisher_left_is_no_version(folder, made, tmp_path):
    put(folder, made)
    (made / "saved_model.pb").unlink()
    (folder / "2").put(made)  # killed while it moved
    old, new = "20250101T000000-00ff", "29990101T000000-00ff"
    (folder / f".claim-3-{old}").write_text("x")
    (folder / f".unfinished-{old}" / "zz").write_text("x")
    (folder / f".unfinished-{new}" / "zz").write_text("x")  # of one that may be at work
    (folder / f".claim-5-{new}").write_text("x")
    (made / "saved_model.pb").write_text("m")
    assert sorted(folders.complete(folder)) == [1]
    assert put(folder, made) == folder / "6"
    assert names(folder) == [f".claim-5-{new}", f".unfinished-{new}", "1", "2", "6"]


def test_publishers_at_once_take_a_number_each(made, monkeypatch):
    pytest.importorskip("fsspec")
    folder = RemotePath(f"memory://{uuid.uuid4().hex}/unet")
    done, errors = [], []

    def one():
        try:
            done.append(put(folder, made).name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(done)) == 6
    assert sorted(folders.complete(folder)) == sorted(map(int, done))


def test_two_that_see_each_other_both_step_back(folder, made, monkeypatch):
    """Another's claim for the number, written between the listing and ours."""
    write, once = RemotePath.write_text, iter([True])

    def crossed(self, text, encoding="utf-8"):
        if ".claim-1-" in self.name and next(once, False):
            write(folder / ".claim-1-29990101T000000-00aa", "another's")
        write(self, text, encoding)

    monkeypatch.setattr(RemotePath, "write_text", crossed)
    assert put(folder, made) == folder / "2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trained = make_trained()
    path = tmp_path_factory.mktemp("run") / "best.keras"
    return save_model(trained._replace(network=in_float32(trained.network)), path).parent


def test_the_commands_publish_look_and_go_back_there(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = RemotePath(f"ram://{uuid.uuid4().hex}/models")
    (root / "models.config").write_text("# ours\nmodel_config_list {}\n")
    (root.parent / "run").put(run)

    def keras_unet(*arguments):
        done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    folder = root / "unet"
    assert f"Published {folder}/1" in keras_unet("export", root.parent / "run", folder)
    bundle = tmp_path / "bundle"
    (folder / "1").get(bundle)
    assert publish_bundle(bundle, folder) == folder / "1"  # the same model: no other version
    (folder / "0002").put(bundle)
    assert versions(Path(str(folder))) == [1, 2]  # folded by pathlib
    assert f"Published {folder}/3" in keras_unet("rollback", folder)
    assert read_rollback(folder / "3").of == 1
    assert f"{folder}/3: " in keras_unet("info", f"{folder}/3")
    assert f"{folder}/3: unet" in keras_unet("lineage", f"{folder}/3")
    with pytest.raises(ExportError, match=f"did you mean {folder}/3"):
        describe(folder)
    with pytest.raises(ExportError, match=f"{folder}/3: is a version; expected .*, {folder}"):
        rollback(folder / "3")
    config = model_server_config_pb2.ModelServerConfig()
    text = (root / "models.config").read_text()
    text_format.Parse(text, config)
    assert text.startswith("# ours\n")
    assert [one.base_path for one in config.model_config_list.config] == [str(folder)]
    assert {p.name for p in tmp_path.iterdir()} == {"bundle"}


def test_a_store_that_refuses_is_found_before_anything_is_made(run, monkeypatch):
    def denied(self, text, encoding="utf-8"):
        raise RemoteError(f"{self}: PermissionDenied")

    def never(*_, **__):
        raise AssertionError("made")

    monkeypatch.setattr(RemotePath, "write_text", denied)
    monkeypatch.setattr(publish, "write_bundle", never)
    with pytest.raises(RemoteError, match="PermissionDenied"):
        export(load_model(run), f"ram://{uuid.uuid4().hex}/unet")


def test_a_server_fetches_the_newest_versions(folder, made):
    root = folder.parent
    with pytest.raises(ConfigError, match="no such folder"):
        Mirror(root, 1.0).start()
    put(folder, made)
    (root / "empty" / "x").write_text("no model")
    mirror = Mirror(root, 60.0)
    local = mirror.start()
    assert {str(p.relative_to(local)) for p in local.rglob("*.pb")} == {"unet/1/saved_model.pb"}
    put(folder, made)
    mirror.poll()
    assert versions(local / "unet") == [1, 2]  # the server may be reading the older one
    mirror.poll()
    assert versions(local / "unet") == [2]
    folder.delete()
    mirror.poll()
    assert [p.name for p in local.iterdir()] == []
    put(folder, made)
    one = Mirror(folder, 60.0)
    assert (one.start() / "unet" / "1" / "saved_model.pb").is_file()


def test_a_model_that_cannot_be_fetched_keeps_no_other_from_it(folder, made, monkeypatch):
    put(folder, made)
    put(folder.parent / "a", made)  # comes first
    get = RemotePath.get

    def denied(self, local):
        if self.parent.name == "a":
            raise RemoteError(f"{self}: PermissionDenied")
        get(self, local)

    monkeypatch.setattr(RemotePath, "get", denied)
    mirror = Mirror(folder.parent, 60.0)
    with pytest.raises(RemoteError, match="a/1: PermissionDenied"):
        mirror.poll()
    assert versions(mirror.folder / "unet") == [1]
