"""A run that begins with a trained model: what is taken, what stays, and how it goes on."""

from __future__ import annotations

import io
import json

import keras
import numpy as np
import pytest
from conftest import make_trained
from rich.console import Console
from test_exact_resume import Killed, checkpoint_at_each_step, go_on, killed_after, same

from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from keras_unet.models import build_unet, load_model, save_model
from keras_unet.training import load_config, plan, train
from keras_unet.training.ancestor import freeze_contracting, read_ancestor, take
from keras_unet.training.checkpoint import Checkpoints

__all__ = ["checkpoint_at_each_step"]  # a fixture that every test here uses

# the network of `make_trained`, whose name is "test"
NETWORK = ["model.filters=4", "model.depth=2"]
SMALL = [*NETWORK, "steps=8", "steps_per_epoch=3", "batch_size=1", "augment=flips", "tile=60"]
SMALL += ["data.label_kind=instances", "model.dropout=0.3", "checkpoint_minutes=1e-9", "name=run"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(48, 48), seed=0)


@pytest.fixture
def file(tmp_path):
    """A model with weights of its own, moving averages too."""
    trained, rng = make_trained(), np.random.default_rng(0)
    for weight in trained.network.weights:
        weight.assign(weight + np.abs(rng.normal(0, 0.1, weight.shape)))
    return save_model(trained, tmp_path / "ancestor.keras")


def configured(data, output, *settings):
    where = {"images": data / "train", "validation": data / "val"}
    return load_config(None, [*SMALL, f"output={output}", *settings], data=where)


def begin(config):
    said = io.StringIO()
    return train(config, Console(file=said, width=500)), said.getvalue()


def network(channels=1, classes=2, **options):
    options = {"filters": 4, "depth": 2, "normalization": "batch", **options}
    return build_unet((None, None, channels), classes, **options)


def weights(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def test_all_is_taken_where_all_fits(file):
    ours = network()
    ancestor, theirs = read_ancestor(str(file))
    assert take(ours, ancestor, theirs) == "took all 23 layers of test"
    expected = load_model(file).network.get_weights()
    for a, b in zip(ours.get_weights(), expected, strict=True):  # moving averages among them
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"channels": 3, "classes": 4},
            "took 21 of 23 layers of test; new: down1_conv1 (3 channels, not 1), "
            "logits (4 classes, not 2)",
        ),
        (
            {"upsampling": "nearest"},
            "took 21 of 23 layers of test; new: up2_upconv (16 → 8 channels, not 8 → 16), ",
        ),
        (
            {"depth": 1},
            "took 10 of 14 layers of test; new: bridge_conv1 (4 → 8 channels, not 8 → 16), ",
        ),
        (
            {"normalization": None},
            "took 3 of 13 layers of test; new: down1_conv1 (2 arrays, not 1)",
        ),
    ],
)
def test_what_does_not_fit_is_new_and_said(file, options, said):
    ours = network(**options)
    before = weights(ours)
    ancestor, theirs = read_ancestor(str(file))
    assert said in take(ours, ancestor, theirs)
    new = said.split("new: ")[1].split(" ")[0]
    np.testing.assert_array_equal(weights(ours)[new][0], before[new][0])
    if "logits" not in said:
        np.testing.assert_array_equal(weights(ours)["logits"][0], theirs["logits"][0])


def test_where_nothing_fits_it_is_an_error(file):
    ancestor, theirs = read_ancestor(str(file))
    message = r"no layer of test fits: it has model.filters=4, .* \(down1_conv1: 2 channels, not 4"
    with pytest.raises(ConfigError, match=message):
        take(network(filters=2), ancestor, theirs)
    with pytest.raises(ConfigError, match="no layer of the contracting path of test fits"):
        freeze_contracting(network(filters=2), ancestor)
    with pytest.raises(ConfigError, match="freeze=contracting needs init"):
        load_config(None, ["freeze=contracting"], data={"images": "data"})


def test_a_run_begins_with_it(data, file, tmp_path):
    """At a rate of nothing, only the moving averages move."""
    config = configured(data, tmp_path, f"init={file}", "learning_rate=1e-30", "steps=1")
    result, said = begin(config)
    assert "took all 23 layers of test" in said
    assert result.model.card.ancestor == "test"
    assert "began with    test" in "\n".join(result.model.card.lines())
    kept, theirs = (
        weights(load_model(result.folder / "last.keras").network),
        read_ancestor(str(file)),
    )
    for name, arrays in theirs.weights.items():
        for a, b in zip(arrays[:2], kept[name][:2], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)
    moved = [not np.array_equal(a[2], kept[n][2]) for n, a in theirs.weights.items() if "norm" in n]
    assert all(moved)
    record = json.loads((result.folder / "run.json").read_text())
    assert record["ancestor"]["digest"] == theirs.ancestor.digest


@pytest.mark.parametrize("decay", [0, 0.9])
def test_the_contracting_path_stays(data, file, tmp_path, decay):
    config = configured(
        data, tmp_path, f"init={file}", "freeze=contracting", f"ema_decay={decay}", "steps=3"
    )
    result, said = begin(config)
    assert "8 layers of the contracting path stay as they are" in said
    theirs = read_ancestor(str(file)).weights
    for name in ("last.keras", "best.keras"):
        model = keras.saving.load_model(result.folder / name)
        assert all(layer.trainable for layer in model.layers)  # who goes on with it may train all
        for layer, arrays in weights(model).items():
            same = [np.array_equal(a, b) for a, b in zip(arrays, theirs[layer], strict=True)]
            assert all(same) if layer.startswith("down") else not any(same), layer


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0, 0.9])
def test_it_goes_on_to_the_same_bits_without_the_ancestor(data, file, tmp_path, monkeypatch, decay):
    settings = [f"init={file}", "freeze=contracting", f"ema_decay={decay}"]
    whole = begin(configured(data, tmp_path / "whole", *settings))[0].folder
    folder = killed_after(monkeypatch, configured(data, tmp_path / "cut", *settings), 5)
    file.unlink()
    result, said = go_on(folder)
    assert "Going on at step 4" in said
    assert "took" not in said
    same(result.folder, whole)
    assert result.model.card.ancestor == "test"


def test_before_its_first_checkpoint_it_needs_the_same_ancestor(data, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a relative path holds wherever the run is resumed
    config = configured(data, tmp_path / "cut", f"init={file.name}")

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(Checkpoints, "write", killed)
    with pytest.raises(Killed):
        begin(config)
    monkeypatch.undo()
    monkeypatch.chdir(data)
    kept = file.read_bytes()
    save_model(make_trained(), file)
    with pytest.raises(DataError, match="other weights than this run was begun with"):
        go_on(config.output / "run")
    file.write_bytes(kept)
    result, said = go_on(config.output / "run")
    assert "took all 23 layers of test" in said
    whole = begin(configured(data, tmp_path / "whole", f"init={file}"))[0].folder
    same(result.folder, whole)


def test_the_plan_follows_the_ancestor(data, file):
    made = plan(data / "train", label_kind="instances", settings={"init": str(file)})
    assert made.config.model.filters == 4 and made.config.model.depth == 2
    assert (made.config.model.padding, made.config.model.normalization) == ("valid", "batch")
    assert made.config.learning_rate == 1e-3
    reasons = {choice.key: choice.reason for choice in made.choices}
    assert "that of test" in reasons["model.filters"]
    assert "test" in reasons["learning_rate"]
    other = {"init": str(file), "model": {"depth": 3}, "learning_rate": 0.01}
    config = plan(data / "train", label_kind="instances", settings=other).config
    assert (config.model.depth, config.model.filters, config.learning_rate) == (3, 4, 0.01)
    with pytest.raises(DataError, match="absent: no trained model here"):
        plan(data / "train", label_kind="instances", settings={"init": "absent"})
