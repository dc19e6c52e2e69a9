"""What a training step costs: arithmetic, memory and an estimate of its time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from keras_unet import geometry
from keras_unet.training.machine import Machine

# Measured with TensorFlow 2.21 on two cores of an AMD EPYC with avx512_bf16. Memory: peak resident
# size above that of the loaded libraries, for batches of 1 and 2 of 572², 4 of 256² and (32
# filters) 1 of 444²: 6.6 to 8.6 bytes a number; float32 and bfloat16 differ by 6 %. Time: 572²,
# batch 1, bfloat16: 0.232 s at 16 filters and 2.73 s at 64, solved for the two constants; float32
# 0.365 s at 16.
BYTES = 9.0  # of each number that a convolution gives, kept for the backward pass
FIXED = 300e6  # bytes of working space, whatever the tile
# Bytes of each pixel of the data set, and of each of its channels. In the bank: label and weight
# map. In all: labels, objects, targets and the weight map's working space too, images twice.
BANK, BANK_CHANNEL = 5.0, 4.0
DATA, DATA_CHANNEL = 20.0, 8.0
ARITHMETIC = 1.87e11  # multiplications and additions a second and core, in bfloat16
TRAFFIC = 2.1e8  # numbers of convolutions a second and core
SLOWER = 0.365 / 0.232  # float32 against bfloat16
# Not measured: how many such cores a GPU stands for. Only the width of the network hangs on it.
GPU_CORES = 100.0


class Network(NamedTuple):
    """The settings that a step's cost depends on."""

    filters: int
    depth: int
    padding: geometry.Padding
    channels: int
    classes: int


class Cost(NamedTuple):
    """Of one tile, forward: operations, and numbers given by convolutions."""

    operations: float
    numbers: float


def tile_cost(tile: int, network: Network) -> Cost:
    """Of a forward pass of one tile [tile, tile, channels]."""
    operations = numbers = 0.0
    for incoming, outgoing, _, taps, side in _convolutions(tile, network):
        operations += 2.0 * incoming * outgoing * taps * side**2
        numbers += outgoing * side**2
    return Cost(operations, numbers)


def step_memory(tile: int, batch: int, network: Network) -> float:
    """Bytes that training takes at its peak, above the loaded libraries and the data set."""
    weights = 16.0 * network_weights(network)  # itself, gradient, and Adam's two moments, float32
    return FIXED + weights + BYTES * batch * tile_cost(tile, network).numbers


def data_memory(pixels: int, channels: int) -> float:
    """Bytes that a data set takes in training, all images together."""
    return pixels * (DATA + DATA_CHANNEL * channels)


def bank_memory(pixels: int, channels: int) -> float:
    """Bytes of it that are on the device that trains."""
    return pixels * (BANK + BANK_CHANNEL * channels)


def step_seconds(tile: int, batch: int, network: Network, machine: Machine) -> float:
    """An estimate for a training step; a factor of two off is no surprise on another processor."""
    cost = tile_cost(tile, network)
    cores = GPU_CORES if machine.gpu else float(machine.cores)
    seconds = 3.0 * cost.operations / ARITHMETIC + cost.numbers / TRAFFIC  # backward costs twice
    return batch * seconds / cores * (1.0 if machine.bfloat16 or machine.gpu else SLOWER)


def network_weights(network: Network) -> float:
    """Numbers in all kernels."""
    smallest = geometry.input_size(1, network.depth, "valid")
    return sum(float(i * o * kernel) for i, o, kernel, *_ in _convolutions(smallest, network))


def _convolutions(tile: int, network: Network) -> Iterator[tuple[int, int, int, int, float]]:
    """(incoming channels, outgoing, kernel, of it for one output pixel, output side) of each."""
    shrink = 2 if network.padding == "valid" else 0
    side, incoming = float(tile), network.channels
    for level in range(network.depth + 1):
        own = network.filters * 2**level
        for source in (incoming, own):
            side -= shrink
            yield source, own, 9, 9, side
        incoming = own
        if level < network.depth:
            side /= 2
    for level in reversed(range(network.depth)):
        own = network.filters * 2**level
        side *= 2
        yield 2 * own, own, 4, 1, side  # the up-convolution
        for source in (2 * own, own):
            side -= shrink
            yield source, own, 9, 9, side
    yield network.filters, network.classes, 1, 1, side
