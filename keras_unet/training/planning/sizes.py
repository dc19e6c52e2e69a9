"""Sizes of a plan: what a step costs; the first padding, width, tile and batch that fit.

Time decides on the width. It would have tile and batch as large as they fit too: a pixel of output
takes 1.2 to 6 times as long in tiles smaller than the paper's, the largest planned, and hardly
less in larger ones or in more of them a step (measured: docs/training.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from keras_unet import geometry
from keras_unet.machine import Machine
from keras_unet.training.planning.data_facts import DataFacts

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


def steps_in(minutes: float | None, steps: float | None, seconds: float) -> float:
    """Steps of a run that `steps` or `minutes` ends, whichever comes first, at so many seconds."""
    by_time = math.inf if minutes is None else 60.0 * minutes / seconds
    return by_time if steps is None else min(steps, by_time)


def network_weights(network: Network) -> float:
    """Numbers in all kernels."""
    smallest = geometry.input_size(1, network.depth, "valid")
    return sum(float(i * o * kernel) for i, o, kernel, *_ in _convolutions(smallest, network))


def _convolutions(tile: int, network: Network) -> Iterator[tuple[int, int, int, int, float]]:
    """(incoming channels, outgoing, kernel, of it for one output pixel, output side) of each."""
    side = float(tile)
    for step in geometry.walk(network.depth, network.filters, network.channels, network.classes):
        taps = step.kernel**2
        if step.kind == "pool":
            side /= 2
        elif step.kind == "up":
            side *= 2
            yield step.incoming, step.outgoing, taps, 1, side
        elif step.kernel:
            side -= step.kernel - 1 if network.padding == "valid" else 0
            yield step.incoming, step.outgoing, taps, taps, side


LEAST_USEFUL = 0.4  # share of a valid tile's pixels that must be output
PAPER_OUTPUT = 388
PIXELS = 2 * PAPER_OUTPUT**2  # of output a step: two of the paper's tiles
STEPS = ((64, 6000), (32, 3000), (16, 300))  # filters, and the steps that they need
NARROW = 8  # filters, where memory or time is short
MEMORY_SHARE = 0.8  # of what is free
UNKNOWN_GPU = 8e9  # bytes that are counted on where a GPU does not tell


class Size(NamedTuple):
    """What a step's memory and time depend on; the batch is that of all devices."""

    padding: geometry.Padding
    filters: int
    tile: int
    batch: int


class Fitted(NamedTuple):
    """The size that was chosen, and the one that memory without limit would have had."""

    size: Size
    wished: Size
    need: float  # bytes of the chosen size, data set included
    room: float  # bytes that may be taken

    @property
    def fits(self) -> bool:
        return self.need <= self.room


class Sizing:
    """Chooses the size; what is given stays as it is."""

    def __init__(
        self, facts: DataFacts, machine: Machine, given: Mapping[str, Any], depth: int
    ) -> None:
        self.facts, self.machine, self.given, self.depth = facts, machine, given, depth

    def network(self, size: Size) -> Network:
        facts = self.facts
        return Network(size.filters, self.depth, size.padding, facts.channels, facts.classes)

    def fitted(self, steps: Callable[[Size], float] | None) -> Fitted:
        """The first choice that fits, else the smallest; the wished one if the data set does not.

        steps: those of the whole run, which decide on the width; None: what suits a CPU.
        """
        machine = self.machine
        memory = (machine.gpu_memory or UNKNOWN_GPU) if machine.gpu else machine.memory
        room = MEMORY_SHARE * memory
        wished = self._wished(steps)
        size = wished
        if self._data() < room:
            for size in self._choices(wished):
                if self._need(size) <= room:
                    break
        return Fitted(size, wished, self._need(size), room)

    @property
    def usual_tile(self) -> int:
        """The valid tile for images as they mostly are."""
        return geometry.input_size(min(self.facts.short, PAPER_OUTPUT), self.depth)

    def useful(self, tile: int) -> float:
        """Share of a valid tile's pixels that are output."""
        return (geometry.output_size(tile, self.depth) / tile) ** 2

    def widest(self, padding: geometry.Padding) -> int:
        """The tile that covers an image, or as much of it as the paper's."""
        if padding == "valid":
            return geometry.input_size(min(self.facts.long, PAPER_OUTPUT), self.depth)
        stride = geometry.stride(self.depth)
        return max(min(self.facts.short, PAPER_OUTPUT) // stride, 1) * stride

    def batch(self, padding: geometry.Padding, tile: int) -> int:
        """That of all devices together, the same for each, were there memory."""
        output = geometry.output_size(tile, self.depth, padding)
        devices = self.machine.devices
        batch = max(1, min(16, PIXELS // output**2))
        return self.given.get("batch_size", -(-batch // devices) * devices)

    def _need(self, size: Size) -> float:
        share = -(-size.batch // self.machine.devices)
        return self._data() + step_memory(size.tile, share, self.network(size))

    def _data(self) -> float:
        """Bytes of the data set where the steps are computed: each device has all of it."""
        memory = bank_memory if self.machine.gpu else data_memory
        return memory(self.facts.pixels, self.facts.channels)

    def _wished(self, steps: Callable[[Size], float] | None) -> Size:
        padding = self._paddings()[0]
        tile = self._tiles(padding)[0]
        size = Size(padding, 16, tile, self.batch(padding, tile))
        if "model.filters" in self.given:
            return size._replace(filters=self.given["model.filters"])
        if steps is not None:
            sizes = [(size._replace(filters=filters), least) for filters, least in STEPS]
            enough = [wide for wide, least in sizes if steps(wide) >= least]
            size = enough[0] if enough else size._replace(filters=NARROW)
        return size

    def _choices(self, wished: Size) -> Iterator[Size]:
        """Sizes from the wished one down: smaller batches first, tiles next, then no margin, then
        fewer filters; at last also tiles that are mostly margin."""
        devices, paddings = self.machine.devices, self._paddings()
        for filters in self._widths(wished.filters, NARROW):
            for padding in paddings:
                for number, tile in enumerate(self._tiles(padding)):
                    most = self.batch(padding, tile)
                    least = most if "batch_size" in self.given else devices
                    for batch in range(most if number == 0 else least, least - 1, -devices):
                        yield Size(padding, filters, tile, batch)
        for filters in self._widths(min(wished.filters, NARROW), 4):
            for padding in paddings:
                for tile in self._tiles(padding, anything=True):
                    yield Size(padding, filters, tile, self.given.get("batch_size", devices))

    def _paddings(self) -> list[geometry.Padding]:
        """In the order in which they are tried."""
        if "model.padding" in self.given:
            return [self.given["model.padding"]]
        tile = self.given.get("tile")
        if tile is not None and tile not in geometry.nearest_sizes(tile, self.depth):
            return ["same"]
        return ["valid", "same"] if self.useful(self.usual_tile) >= LEAST_USEFUL else ["same"]

    def _widths(self, first: int, least: int) -> list[int]:
        if "model.filters" in self.given:
            return [self.given["model.filters"]]
        found = [first]
        while found[-1] > least:
            found.append(max(found[-1] // 2, least))
        return found

    def _tiles(self, padding: geometry.Padding, anything: bool = False) -> list[int]:
        """From one that covers an image down to the smallest useful one, or to any."""
        if "tile" in self.given:
            return [self.given["tile"]]
        stride, widest = geometry.stride(self.depth), self.widest(padding)
        if padding == "same":
            smallest = (2 if anything else 8) * stride
        else:
            smallest = geometry.input_size(1, self.depth)
        sizes = range(widest, min(smallest, widest) - 1, -stride)
        if padding == "same" or anything:
            return list(sizes)
        return [n for n in sizes if n == widest or self.useful(n) >= LEAST_USEFUL]
