"""Padding, width, tile and batch of a plan, and what they cost."""

from __future__ import annotations

import numpy as np
from test_planner import FACTS, MACHINE, choose

from keras_unet import build_unet, geometry
from keras_unet.machine import Machine
from keras_unet.training.planning.rules import Rules
from keras_unet.training.planning.sizes import (
    Network,
    data_memory,
    network_weights,
    step_memory,
    tile_cost,
)


def test_small_images_have_no_margin_and_no_more_levels_than_pixels():
    assert choose()["model.padding"] == "valid"
    assert choose()["tile"] == 572
    small = choose(short=256, long=256)
    assert (small["model.padding"], small["tile"], small["batch_size"]) == ("same", 256, 4)
    tiny = choose(short=40, long=40)
    assert (tiny["model.depth"], tiny["tile"]) == (2, 40)
    assert choose(large=300.0)["model.depth"] == 5


def test_a_tile_that_no_valid_network_has_gets_another():
    assert choose(given={"tile": 256})["model.padding"] == "same"
    assert choose(given={"tile": 572})["model.padding"] == "valid"


def test_memory_limits_batch_then_tile_then_margin_then_filters():
    sizes = []
    for memory in (8e9, 1.3e9, 0.9e9, 0.8e9, 0.6e9):
        chosen = choose(Machine(cores=2, memory=memory, bfloat16=True))
        network = Network(chosen["model.filters"], 4, chosen["model.padding"], 1, 2)
        tile, batch = chosen["tile"], chosen["batch_size"]

        def fits(tile, network=network, batch=batch, memory=memory):
            need = step_memory(tile, batch, network) + data_memory(FACTS.pixels, 1)
            return need <= 0.8 * memory

        assert fits(tile)
        widest = {"valid": 572, "same": 384}[network.padding]
        assert tile == widest or not fits(tile + 16)  # the largest that does
        sizes.append((network.padding, network.filters, tile, batch, chosen.get("accumulate")))
    assert sizes[0] == ("valid", 16, 572, 2, None)
    assert sizes[1] == ("valid", 16, 572, 1, 2)  # as many tiles for a change of the weights
    assert (*sizes[2][:2], *sizes[2][3:]) == ("valid", 16, 1, 2)
    assert geometry.output_size(sizes[2][2]) ** 2 >= 0.4 * sizes[2][2] ** 2
    assert sizes[2][2] < 572
    assert sizes[3][:2] == ("same", 16)
    assert sizes[4][:2] == ("same", 8)


def reason(key, machine, **changes):
    rules = Rules(FACTS.model_copy(update=changes), machine, {}, lambda side: 0.0)
    return next(choice.reason for choice in rules.all() if choice.key == key)


def test_memory_counts_the_data_set_and_says_where_nothing_fits():
    little = Machine(cores=2, memory=1.4e9, bfloat16=True)
    assert choose(little)["batch_size"] == 2
    assert choose(little, pixels=15_000_000)["batch_size"] == 1
    assert "the smallest; gives 32 px; DOES NOT FIT" in reason(
        "tile", Machine(cores=2, memory=0.5e9, bfloat16=True)
    )
    # no network is small enough for a data set that does not fit
    large = {"pixels": 300_000_000}
    assert choose(**large)["tile"] == 572
    assert "DOES NOT FIT: about 9.3 GB of 8.0 GB" in reason("tile", MACHINE, **large)


def test_a_gpu_holds_the_bank_alone():
    gpu = Machine(cores=2, memory=64e9, bfloat16=True, gpu="a GPU")
    assert choose(gpu, pixels=200_000_000)["tile"] == 572
    assert choose(gpu, pixels=600_000_000)["model.padding"] == "same"
    large = gpu.model_copy(update={"gpu_memory": 80e9})  # a GPU that tells has what it tells
    assert choose(large, pixels=600_000_000)["tile"] == 572


def test_a_batch_is_shared_equally_by_all_devices():
    three = Machine(cores=2, memory=8e9, bfloat16=True, devices=3)
    assert choose(three)["batch_size"] == 3
    assert choose(three, short=256, long=256)["batch_size"] == 6
    assert str(three).endswith("3 devices")


def test_time_decides_on_the_width():
    widths = [choose(given={"minutes": m})["model.filters"] for m in (1, 20, 300, 3000)]
    assert widths == [8, 16, 32, 64]
    # what ends the run first decides
    assert choose(given={"minutes": 3000, "steps": 100})["model.filters"] == 8
    both = choose(given={"minutes": 1, "steps": 100_000})
    assert (both["model.filters"], "model.dropout" in both) == (8, False)
    assert choose(given={"steps": 100_000})["model.filters"] == 16
    slow = Machine(cores=1, memory=8e9, bfloat16=False)
    assert choose(slow, given={"minutes": 3})["model.filters"] == 8


def test_cost_is_that_of_the_network():
    """Operations and weights against Keras's own count."""
    import keras

    model = build_unet((92, 92, 3), 4, filters=3, depth=2)
    network = Network(3, 2, "valid", 3, 4)
    kernels = sum(int(np.prod(w.shape)) for w in model.weights if w.path.endswith("kernel"))
    assert network_weights(network) == kernels
    numbers = operations = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            given = int(np.prod(layer.output.shape[1:]))
            numbers += given
            kernel = int(np.prod(layer.kernel.shape))
            taps = 4 if isinstance(layer, keras.layers.Conv2DTranspose) else 1
            operations += 2 * kernel * given // layer.filters // taps
    cost = tile_cost(92, network)
    assert cost.numbers == numbers
    assert cost.operations == operations
