"""The planner: facts measured right, rules that follow them, a TOML that is read back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet import geometry
from keras_unet.data.samples import Sample
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from keras_unet.machine import Machine
from keras_unet.training import load_config, plan
from keras_unet.training.planning.data_facts import DataFacts, data_facts, missed
from keras_unet.training.planning.plan import plan_tree
from keras_unet.training.planning.rules import Rules

MACHINE = Machine(cores=2, memory=8e9, bfloat16=True)
FACTS = DataFacts(
    images=20,
    short=512,
    long=512,
    pixels=20 * 512**2,
    channels=1,
    classes=2,
    kind="instances",
    fractions=(0.8, 0.2),
    objects=500,
    diameter=20.0,
    large=40.0,
    close=0.5,
    flat=0,
)


def choose(machine=MACHINE, given=None, missed=0.0, **changes):
    rules = Rules(FACTS.model_copy(update=changes), machine, given or {}, lambda side: missed)
    return {choice.key: choice.value for choice in rules.all()}


def discs(places, radius=6, size=80):
    """Instance labels of discs, one number each."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for number, (v, u) in enumerate(places, start=1):
        labels[(y - v) ** 2 + (x - u) ** 2 <= radius**2] = number
    return labels


def test_facts_of_discs():
    # the first two are 5 pixels apart, the third is alone
    labels = discs([(20, 20), (20, 38), (60, 60)])
    gap = np.flatnonzero(labels[20] == 2)[0] - np.flatnonzero(labels[20] == 1)[-1] - 1
    assert gap == 5
    sample = Sample("a", np.zeros((80, 80, 3), np.uint8), (labels > 0).astype(np.int32), labels)

    class Summary:
        class_fractions = (0.9, 0.1)

    facts = data_facts([sample], Summary, "instances")
    assert (facts.objects, facts.channels, facts.short) == (3, 3, 80)
    assert facts.diameter == pytest.approx(2 * np.sqrt(113 / np.pi), abs=0.1)
    assert facts.close == pytest.approx(2 / 3, abs=1e-3)


def test_the_middle_of_large_images_is_looked_at(monkeypatch):
    places = [(y, x) for y in range(20, 400, 40) for x in range(20, 400, 40)]
    labels = discs(places, size=400)
    sample = Sample("a", np.zeros((400, 400, 1), np.uint8), (labels > 0).astype(np.int32), labels)

    class Summary:
        class_fractions = (0.9, 0.1)

    monkeypatch.setattr("keras_unet.training.planning.data_facts.PIXELS", 240**2)
    facts = data_facts([sample], Summary, "instances")
    assert facts.pixels == 400**2
    assert facts.objects == 36
    assert facts.diameter == pytest.approx(2 * np.sqrt(113 / np.pi), abs=0.1)


def test_windows_without_a_class_are_counted():
    classes = np.zeros((40, 40), np.int32)
    classes[:, :20] = 1
    classes[0, 0] = 2
    samples = [Sample("a", np.zeros((40, 40, 1), np.uint8), classes)]
    # 31 * 31 places for a window of 10; one of them holds the pixel of class 2
    assert missed(samples, 10) > 0.98
    classes[0, 0] = 1
    assert missed(samples, 10) == pytest.approx(11 / 31, abs=0.07)
    assert missed(samples, 40) == 0.0


def test_windows_lie_where_labels_are():
    classes = np.full((200, 200), -1, np.int32)
    classes[10:14, 10:14], classes[180:184, 180:184] = 0, 1
    samples = [Sample("a", np.zeros((200, 200, 1), np.uint8), classes)]
    assert missed(samples, 40) == pytest.approx(0.5, abs=0.08)  # anywhere, it would be 0.9


def test_strokes_are_no_objects():
    classes = np.full((80, 80), -1, np.int32)
    classes[10:13, 10:40], classes[40:43, 10:40] = 1, 0
    classes[50:70, 50:70] = 0
    classes[55:65, 55:65] = 1  # this one is labelled around

    class Summary:
        class_fractions = (0.9, 0.1)

    image = np.zeros((80, 80, 1), np.uint8)
    facts = data_facts([Sample("a", image, classes)], Summary, "semantic")
    assert facts.objects == 1
    assert facts.diameter == pytest.approx(2 * 10 / np.sqrt(np.pi), abs=0.1)
    instances = np.where(classes > 0, 7, 0)  # numbers of objects say that they are
    facts = data_facts([Sample("a", image, classes, instances)], Summary, "instances")
    assert facts.objects == 1 and facts.diameter > 12


def test_what_is_given_stays_and_the_rest_fits_it():
    chosen = choose(given={"model.depth": 2, "model.padding": "same", "loss.w0": 10.0})
    assert not {"model.depth", "model.padding", "loss.w0"} & set(chosen)
    assert chosen["tile"] % geometry.stride(2) == 0
    geometry.output_size(chosen["tile"], 2, "same")


def test_weights_are_averaged():
    assert choose()["ema_decay"] == 0.999
    assert "ema_decay" not in choose(given={"ema_decay": 0.0})


def test_the_paper_is_planned_as_published(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=64) / "train"
    paper = {"preset": "paper", "model": {"depth": 2, "filters": 2}}
    made = plan(data, label_kind="instances", settings=paper).config
    loss = made.loss
    assert (loss.w0, loss.sigma, loss.class_weights) == (10.0, 5.0, "balanced")
    assert (loss.dice, loss.focal, loss.label_smoothing) == (0.0, 0.0, 0.0)
    assert (made.augment, made.augment_options, made.oversample) == ("paper", {}, 0.0)
    assert (made.optimizer, made.momentum, made.batch_size) == ("sgd", 0.99, 1)
    assert (made.schedule, made.ema_decay, made.model.dropout) == ("constant", 0.0, 0.5)
    assert (made.model.padding, made.model.normalization) == ("valid", "none")


def test_losses_follow_the_labels():
    nuclei = choose()
    assert (nuclei["loss.w0"], nuclei["loss.class_weights"], nuclei["loss.dice"]) == (
        5.0,
        "none",
        1.0,
    )
    membranes = choose(kind="semantic", fractions=(0.23, 0.77))
    assert (membranes["loss.w0"], "loss.dice" in membranes) == (1.0, False)
    assert choose(close=0.01)["loss.w0"] == 0.0
    rare = choose(kind="semantic", classes=3, fractions=(0.9, 0.08, 0.02))
    assert (rare["loss.class_weights"], rare["loss.dice"]) == ("balanced", 1.0)
    rarest = choose(kind="semantic", classes=3, fractions=(0.9, 0.09998, 0.00002))
    assert (rarest["loss.class_weights"], rarest["loss.dice"]) == ("balanced", 1.0)
    sigmas = {
        diameter: choose(diameter=diameter)["loss.sigma"] for diameter in (6.0, 12.6, 18.0, 60.0)
    }
    assert sigmas == {6.0: 1.5, 12.6: 2.1, 18.0: 3.0, 60.0: 5.0}


def test_drop_out_is_the_papers_where_there_is_time_for_it():
    assert choose(given={"minutes": 30.0})["model.dropout"] == 0.5
    assert "model.dropout" not in choose(given={"minutes": 2.0})


def test_tiles_without_foreground_low_contrast_and_small_tiles():
    assert "oversample" not in choose(missed=0.05)
    assert choose(missed=0.3)["oversample"] == 0.33
    assert "data.normalization" not in choose()
    assert choose(flat=2)["data.normalization"] == "dataset"
    assert choose()["augment_options.interpolation"] == "bicubic"
    assert "augment_options.elastic_sigma" not in choose()
    assert choose(short=64, long=64)["augment_options.elastic_sigma"] == 2.5
    flips = choose(given={"augment": "flips"}, short=64, long=64)
    assert not [key for key in flips if key.startswith("augment_options")]


@pytest.mark.parametrize(
    ("short", "long", "said"),
    [
        (380, 385, "covers images of 380×385 px; gives 388 px"),
        (771, 839, "the paper's 388 px of output; images of 771×839 px take several tiles; gives"),
        (350, 700, "the paper's 388 px of output; images of 350×700 px take several tiles; gives"),
        (256, 256, "covers images of 256×256 px; gives 256 px"),  # "same" from here on
        (250, 320, "the largest within images of 250×320 px; gives 240 px"),
    ],
)
def test_the_tile_is_said_to_cover_an_image_only_if_it_does(short, long, said):
    rules = Rules(
        FACTS.model_copy(update={"short": short, "long": long}),
        MACHINE.model_copy(update={"memory": 64e9}),
        {"steps": 400},
        lambda side: 0.0,
    )
    (reason,) = [choice.reason for choice in rules.all() if choice.key == "tile"]
    assert reason.startswith(said)


def test_a_plan_of_a_folder_is_a_whole_configuration(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(64, 80), seed=0)
    made = plan(
        data / "train",
        label_kind="instances",
        minutes=3,
        machine=MACHINE,
        settings={"seed": 7, "model": {"depth": 2}},
    )
    assert (made.config.minutes, made.config.seed, made.config.model.depth) == (3, 7, 2)
    assert made.config.tile == 64
    assert made.facts.objects > 10
    file = tmp_path / "train.toml"
    file.write_text(made.to_toml(), encoding="utf-8")
    assert load_config(file) == made.config
    text = made.to_toml()
    for choice in made.choices:
        line = choice.reason.split(":")[0].split(";")[0]
        assert line[:40] in text
    assert "64×80 px" in text
    assert "\n# patience =\n" in text  # settings that are not set are there too
    with pytest.raises(DataError, match=r'data.label_kind = "instances"'):
        plan(data / "train", machine=MACHINE)


def test_a_given_tile_need_not_suit_the_defaults_and_text_counts_as_numbers(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(64, 64), seed=0) / "train"
    asked = {"label_kind": "instances", "minutes": 3, "machine": MACHINE}
    made = plan(data, settings={"tile": 64.0, "model": {"filters": "4"}}, **asked)
    assert (made.config.tile, made.config.model.padding, made.config.model.filters) == (
        64,
        "same",
        4,
    )
    with pytest.raises(ConfigError, match="tile"):
        plan(data, settings={"tile": "large"}, **asked)
    with pytest.raises(ConfigError, match="63"):
        plan(data, settings={"tile": 63, "model": {"padding": "valid"}}, **asked)


def test_a_fitted_normalization_is_in_the_plan(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(64, 64), seed=0) / "train"
    fitted = {"method": "dataset", "mean": [10.0], "std": [0.5]}
    settings = {"model": {"depth": 2}, "data": {"normalization": fitted}}
    made = plan(data, label_kind="instances", minutes=3, settings=settings, machine=MACHINE)
    file = tmp_path / "train.toml"
    file.write_text(made.to_toml(), encoding="utf-8")
    assert load_config(file) == made.config
    assert load_config(file).data.normalization.method == "dataset"


def test_what_train_would_refuse_is_not_planned(tmp_path):
    data = write_dataset(tmp_path / "cells", train=1, val=1, size=(64, 64), seed=0) / "train"
    with pytest.raises(ConfigError, match="one labelled image cannot be split"):
        plan(data, label_kind="instances", machine=MACHINE)


def test_a_class_that_validation_would_lack_is_no_matter_to_folds(tmp_path):
    data = tmp_path / "cells"
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    for number in range(3):
        labels = rng.integers(0, 3 if number == 0 else 2, (64, 64)).astype(np.uint8)
        Image.fromarray(labels).save(data / "labels" / f"{number}.png")
        Image.fromarray(labels * 60).save(data / "images" / f"{number}.png")
    tree = {"data": {"images": data}, "minutes": 3}
    with pytest.raises(ConfigError, match=r"have no pixel of class \[2\]"):
        plan_tree(tree, MACHINE)
    assert plan_tree(tree, MACHINE, folded=True).facts.classes == 3


def test_devices_of_this_machine_and_of_others(monkeypatch):
    from keras_unet.machine import this_machine

    cluster = (
        '{"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 0}}'
    )
    monkeypatch.setenv("TF_CONFIG", cluster)
    assert this_machine().devices % 3 == 0
    assert this_machine("one").devices == 1


def test_this_machine_is_described():
    from keras_unet.machine import this_machine

    found = this_machine()
    assert found.cores >= 1
    assert found.memory > 0
    assert "GB free" in str(found)
