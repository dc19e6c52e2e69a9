"""Versions come and go: the new one first, a broken one never, the old one when it is free."""

from __future__ import annotations

import shutil
import time

import pytest

from keras_unet.errors import ConfigError
from keras_unet.serving.folders import numbered
from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.server.manager import Manager
from keras_unet.serving.server.model_files import ServedModel, discover, read_config
from keras_unet.serving.server.servable import State


class Loaded:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def close(self):
        self.log.append(f"closed {self.name}")


class Bench:
    """A manager of made-up models, polled by hand."""

    def __init__(self, root, models=None, **settings):
        self.log, self.broken, self.events = [], set(), []
        self.manager = Manager(
            (lambda: models) if models is not None else (lambda: discover(root)),
            self.load,
            event=lambda name, **fields: self.events.append((name, fields.get("error"))),
            poll_seconds=3600,
            **{"retries": 1, "retry_seconds": 0.0, **settings},
        )

    def load(self, model, folder):
        name = f"{model}/{int(folder.name)}"
        if name in self.broken:
            raise Refused(Code.NOT_FOUND, "torn")
        self.log.append(f"loaded {name}")
        return Loaded(self.log, name)

    def states(self, name="m"):
        return {number: state.name for number, state, _, _ in self.manager.status(name)}


def wait(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.005)


def versions(root, *paths):
    for path in paths:
        (root / path).mkdir(parents=True)


def test_a_new_version_takes_over_before_the_old_one_ends(tmp_path):
    versions(tmp_path, "m/1", "m/.unfinished-7", "m/x")
    bench = Bench(tmp_path)
    bench.manager.poll()
    used = bench.manager.acquire("m")
    assert used.number == 1
    versions(tmp_path, "m/2")
    bench.manager.poll()
    assert bench.states() == {2: "AVAILABLE", 1: "UNLOADING"}  # a request still uses it
    assert bench.manager.acquire("m").number == 2
    with pytest.raises(Refused, match=r"Servable not found for request: Specific\(m, 1\)"):
        bench.manager.acquire("m", 1)
    used.leave()
    assert bench.log == ["loaded m/1", "loaded m/2", "closed m/1"]
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def test_a_version_that_does_not_load_leaves_the_old_one(tmp_path):
    versions(tmp_path, "m/1")
    bench = Bench(tmp_path)
    bench.manager.poll()
    versions(tmp_path, "m/2")
    bench.broken.add("m/2")
    bench.manager.poll()
    assert bench.states() == {2: "END", 1: "AVAILABLE"}
    assert bench.manager.status("m", 2) == [(2, State.END, Code.NOT_FOUND, "torn")]
    bench.broken.clear()
    bench.manager.poll()  # it is tried again
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def test_a_broken_version_is_tried_a_few_times_only(tmp_path):
    versions(tmp_path, "m/1")
    bench = Bench(tmp_path, retries=2)
    bench.broken.add("m/1")
    for _ in range(3):
        bench.manager.poll()
    bench.broken.clear()
    bench.manager.poll()
    assert bench.states() == {1: "END"} and bench.log == []
    patient = Bench(tmp_path, retries=9, retry_seconds=3600)
    patient.broken.add("m/1")
    patient.manager.poll()
    patient.broken.clear()
    patient.manager.poll()
    assert patient.states() == {1: "END"}


def given_up(tmp_path, **settings):
    """A bench whose version m/2 is broken, and has been tried as often as it may be."""
    versions(tmp_path, "m/1")
    bench = Bench(tmp_path, retries=1, **settings)
    bench.broken.add("m/2")
    bench.manager.poll()
    versions(tmp_path, "m/2/variables")
    (tmp_path / "m/2/saved_model.pb").write_text("torn")
    for _ in range(4):
        bench.manager.poll()
    assert len(bench.events) == 3 and bench.states() == {2: "END", 1: "AVAILABLE"}
    bench.broken.clear()
    bench.manager.poll()
    assert bench.states() == {2: "END", 1: "AVAILABLE"}
    return bench


@pytest.mark.parametrize("alone", [False, True])
def test_a_version_that_goes_and_comes_back_is_a_new_one(tmp_path, alone):
    bench = given_up(tmp_path)
    shutil.rmtree(tmp_path / "m/2")
    if alone:  # nothing is left of the model for a while
        (tmp_path / "m/1").rmdir()
    bench.manager.poll()
    versions(tmp_path, "m/2")
    bench.manager.poll()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def _mended(folder):
    (folder / "saved_model.pb").write_text("whole")


def _replaced(folder):  # between two polls
    shutil.rmtree(folder)
    folder.mkdir()
    _mended(folder)


def _completed(folder):
    (folder / "variables/variables.index").write_text("late")


def _same_size(folder):
    (folder / "saved_model.pb").write_text("good")


@pytest.mark.parametrize("change", [_mended, _replaced, _completed, _same_size])
def test_a_version_whose_folder_changes_is_tried_again(tmp_path, change):
    bench = given_up(tmp_path)
    change(tmp_path / "m/2")
    bench.manager.poll()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def test_a_version_that_is_being_copied_is_not_tried_at_every_look(tmp_path):
    bench = given_up(tmp_path)
    bench.manager._retry_seconds = 3600
    bench.broken.add("m/2")
    part = tmp_path / "m/2/variables/variables.data"
    part.write_text("begun")
    bench.manager.poll()
    assert len(bench.events) == 4  # the first look: long ago that it was tried
    for size in range(5):
        part.write_text("." * size)
        bench.manager.poll()
    assert len(bench.events) == 4
    bench.broken.clear()  # the copy is complete
    bench.manager.poll()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def test_models_and_folders_may_come_and_go(tmp_path):
    versions(tmp_path, "a/1", "b/00000123", "not/a-version", ".hidden/1")
    bench = Bench(tmp_path)
    bench.manager.poll()
    assert bench.manager.names() == ["a", "b"]
    assert bench.manager.acquire("b").number == 123
    (tmp_path / "a/1").rmdir()
    bench.manager.poll()
    assert bench.manager.names() == ["b"]
    assert bench.states("a") == {1: "END"}
    versions(tmp_path, "a/1")  # the same number again
    bench.manager.poll()
    assert bench.states("a") == {1: "AVAILABLE"}


def test_a_folder_that_is_away_ends_nothing(tmp_path):
    versions(tmp_path, "root/m/1")
    bench = Bench(tmp_path / "root")
    bench.manager.poll()
    (tmp_path / "root").rename(tmp_path / "away")
    bench.manager.poll()
    assert bench.states() == {1: "AVAILABLE"}


def test_a_models_folder_that_is_away_ends_nothing_and_is_told_once(tmp_path):
    versions(tmp_path, "m/1", "n/1")
    models = [ServedModel(name=name, base_path=tmp_path / name) for name in ("m", "n")]
    bench = Bench(tmp_path, models=models)
    bench.manager.poll()
    (tmp_path / "m").rename(tmp_path / "away")
    versions(tmp_path, "n/2")
    for _ in range(3):
        bench.manager.poll()
    assert bench.states("m") == {1: "AVAILABLE"} and bench.manager.acquire("n").number == 2
    told = [error for name, error in bench.events if name == "poll_failed"]
    assert len(told) == 1 and str(tmp_path / "m") in told[0]
    (tmp_path / "away").rename(tmp_path / "m")
    bench.manager.poll()
    (tmp_path / "m").rename(tmp_path / "away")
    bench.manager.poll()
    assert len([name for name, _ in bench.events if name == "poll_failed"]) == 2
    versions(tmp_path, "m")  # empty is not away
    bench.manager.poll()
    assert bench.states("m") == {1: "END"}


def test_a_folder_that_may_not_be_read_is_no_model(tmp_path, monkeypatch):
    versions(tmp_path, "m/1", "lost+found")

    def guarded(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return numbered(path)

    monkeypatch.setattr("keras_unet.serving.server.model_files.numbered", guarded)
    assert [model.name for model in discover(tmp_path)] == ["m"]


def test_polling_goes_on_whatever_happens(tmp_path):
    versions(tmp_path, "m/1")
    model, wrong = ServedModel(name="m", base_path=tmp_path / "m"), []

    def models():
        if wrong:
            raise TypeError("nobody thought of it")
        return [model]

    bench = Bench(tmp_path)
    bench.manager._models, bench.manager._poll_seconds = models, 0.01
    bench.manager.start()
    try:
        wrong.append(True)
        wait(lambda: ("poll_failed", "nobody thought of it") in bench.events)
        wrong.clear()
        versions(tmp_path, "m/2")
        wait(lambda: "loaded m/2" in bench.log)
    finally:
        bench.manager.stop()


def test_unknown_models_and_labels(tmp_path):
    bench = Bench(tmp_path, models=[])
    bench.manager.poll()
    for call in (bench.manager.acquire, bench.manager.status):
        with pytest.raises(Refused) as caught:
            call("../../etc/passwd")
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(Refused, match="Unrecognized servable version label: ../x") as caught:
            call("m", None, "../x")
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_policies_and_labels(tmp_path):
    versions(tmp_path, "m/1", "m/2", "m/3")
    model = ServedModel(name="m", base_path=tmp_path / "m", latest=2, labels={"old": 2, "gone": 1})
    bench = Bench(tmp_path, models=[model])
    bench.manager.poll()
    assert bench.states() == {3: "AVAILABLE", 2: "AVAILABLE"}
    assert bench.manager.acquire("m", label="old").number == 2
    with pytest.raises(Refused, match=r"Specific\(m, 1\)"):
        bench.manager.acquire("m", label="gone")
    bench.manager.reload([model.model_copy(update={"specific": (1,), "labels": {"old": 1}})])
    assert bench.states()[1] == "AVAILABLE"
    assert bench.manager.acquire("m", label="old").number == 1


def test_a_label_needs_an_available_version(tmp_path):
    versions(tmp_path, "m/1")
    model = ServedModel(name="m", base_path=tmp_path / "m")
    bench = Bench(tmp_path, models=[model])
    bench.manager.poll()
    wrong = model.model_copy(update={"labels": {"new": 2, "stable": 1}})
    with pytest.raises(Refused, match="not currently available") as caught:
        bench.manager.reload([wrong])
    assert caught.value.code is Code.FAILED_PRECONDITION
    bench.manager.poll()
    assert bench.manager.acquire("m", label="stable").number == 1
    with pytest.raises(Refused, match="Unrecognized"):
        bench.manager.acquire("m", label="new")


def test_a_reload_that_fails_keeps_what_was_served(tmp_path):
    versions(tmp_path, "m/1", "n/1")
    first = ServedModel(name="m", base_path=tmp_path / "m")
    bench = Bench(tmp_path, models=[first])
    bench.manager.poll()
    with pytest.raises(Refused, match="no versions in"):
        bench.manager.reload([first, ServedModel(name="n", base_path=tmp_path / "nothing")])
    bench.broken.add("n/1")
    with pytest.raises(Refused, match="torn"):
        bench.manager.reload([first, ServedModel(name="n", base_path=tmp_path / "n")])
    bench.manager.poll()
    assert bench.manager.names() == ["m"]


def test_stopping_waits_for_requests(tmp_path):
    versions(tmp_path, "m/1")
    bench = Bench(tmp_path)
    bench.manager.poll()
    used = bench.manager.acquire("m")
    bench.manager.stop(0.05)
    assert bench.log == ["loaded m/1"]  # not closed under its user
    used.leave()
    assert bench.log == ["loaded m/1", "closed m/1"]


def test_names_that_are_no_versions(tmp_path):
    versions(tmp_path, "1", "٣", "-2", "3.0", "9" * 19, "9" * 60, "0002")
    (tmp_path / "5").write_text("a file")
    assert sorted(numbered(tmp_path)) == [1, 2]


def test_the_config_file_of_tensorflow_serving_is_read(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        """model_config_list {
          config { name: "a" base_path: "unet" model_platform: "tensorflow" }
          config { name: "b" base_path: "/models/b"
            model_version_policy { specific { versions: 3 versions: 7 } }
            version_labels { key: "stable" value: 3 } }
          config { name: "c" base_path: "c" model_version_policy { latest { num_versions: 2 } } }
          config { name: "d" base_path: "d" model_version_policy { all {} } }
        }"""
    )
    a, b, c, d = read_config(file)
    assert a.base_path == tmp_path / "unet" and a.latest == 1
    assert str(b.base_path) == "/models/b" and b.specific == (3, 7) and b.labels == {"stable": 3}
    assert c.latest == 2 and d.latest is None
    one = 'config { name: "a" base_path: "a" }'
    for text, message in [
        ("nonsense", "not a model config file"),
        ("", "expected a model_config_list"),
        (f"model_config_list {{ {one} {one} }}", "named twice"),
        ('model_config_list { config { name: "a" } }', "without a name or a base_path"),
        (
            'model_config_list { config { name: "a" base_path: "s3://bucket/a" } }',
            "base_path is s3://bucket/a; expected a folder of this machine",
        ),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_config(file)
    with pytest.raises(ConfigError, match="no such folder"):
        discover(tmp_path / "nothing")
