"""Padding, width, tile and batch of a plan: the first choice that fits the memory.

Time decides on the width. It would have tile and batch as large as they fit too: a pixel of output
takes 1.2 to 6 times as long in tiles smaller than the paper's, the largest planned, and hardly
less in larger ones or in more of them a step (measured: docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from keras_unet import geometry
from keras_unet.training.cost import Network, bank_memory, data_memory, step_memory
from keras_unet.training.facts import DataFacts
from keras_unet.training.machine import Machine

LEAST_USEFUL = 0.4  # share of a valid tile's pixels that must be output
PAPER_OUTPUT = 388
PIXELS = 2 * PAPER_OUTPUT**2  # of output a step: two of the paper's tiles
STEPS = ((64, 6000), (32, 3000), (16, 300))  # filters, and the steps that they need
NARROW = 8  # filters, where memory or time is short
MEMORY_SHARE = 0.8  # of what is free
GPU_MEMORY = 8e9  # bytes that are counted on: TensorFlow does not tell what a GPU has free


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
        room = MEMORY_SHARE * (GPU_MEMORY if self.machine.gpu else self.machine.memory)
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
