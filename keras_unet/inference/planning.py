"""Plan of an image's tiles: the fastest that memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_unet import geometry
from keras_unet.inference import symmetries, tiles
from keras_unet.inference.ensemble import Member
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.symmetries import Square
from keras_unet.inference.tiles import Axis, Layout
from keras_unet.models.unet import Structure

# Measured peak over counted tensors, see tests/inference/test_planning.py: buffers of oneDNN
# and what the allocator keeps.
SLACK = 1.7
SHARE = 0.5  # of the free memory: others on the machine take some too


def network_bytes(network: keras.Model, form: Structure, tile: tuple[int, int]) -> int:
    """Bytes of the activations that are alive together when one tile is computed.

    Counted from the architecture: at each step the step's input, its output and the skip
    connections that are still to be used.
    """
    first = next(layer for layer in network.layers if layer.name == "down1_conv1")
    filters = getattr(first, "filters", 1)
    itemsize = 2 if "16" in first.compute_dtype else 4
    height, width = tile
    skips: list[int] = []
    peak = 0
    for step in geometry.walk(form.depth, filters, form.channels, form.num_classes):
        taken = height * width * step.incoming
        if step.kind == "pool":
            skips.append(taken)
            height, width = -(-height // 2), -(-width // 2)
        elif step.kind == "up":
            height, width = 2 * height, 2 * width
        elif step.kind == "join":
            skips.pop()  # cut to this size: both halves and their concatenation, then a convolution
            peak = max(peak, sum(skips) + 2 * height * width * step.outgoing)
        elif step.kind == "convolution":
            if form.padding == "valid":
                height, width = height - step.kernel + 1, width - step.kernel + 1
            peak = max(peak, sum(skips) + taken + height * width * step.outgoing)
    return int(SLACK * itemsize * peak)


# Time goes with the pixels that the convolutions compute (within 10 percent from 316² to 1596²),
# so that larger tiles are always faster, but ever less so: from 12 margins on (1104 at depth 4)
# an infinite tile would save 17 percent and take more memory than it is worth.
_MARGINS = 12
_LEAST = 572  # smaller tiles do not keep the processor busy
_BATCH_PIXELS = 1 << 16  # smaller tiles are put together until they have so many


class Plan(NamedTuple):
    """The tiles of one image.

    network_tile: (height, width) of the network's input. bytes: estimated, beside the weights.
    square: for rotations. reason: one line for people.
    """

    rows: Axis
    columns: Axis
    network_tile: tuple[int, int]
    batch: int
    bytes: int
    reason: str
    square: Square | None = None

    @property
    def tile(self) -> tuple[int, int]:
        """As the option `tile` it gives this plan again."""
        return self.network_tile

    @property
    def band_height(self) -> int:
        return self.rows.step

    @property
    def pixels(self) -> int:
        """That the network computes."""
        return self.tiles * self.network_tile[0] * self.network_tile[1]

    @property
    def tiles(self) -> int:
        return self.rows.repeats * self.columns.repeats


def layout_for(member: Member, options: PredictOptions) -> Layout:
    """What the network asks of its tiles under these options."""
    form = member.form
    return tiles.layout(
        form.depth,
        form.padding,
        form.upsampling,
        cut=options.blend == "exact",
        symmetric=options.symmetries in ("flips", "all"),
    )


def make_plan(
    size: tuple[int, int],
    networks: Sequence[Member],
    options: PredictOptions,
    memory: int,
    largest: tuple[int, int] | None = None,
    batch: int | None = None,
) -> Plan:
    """Chooses the tiles of an image of `size` (height, width).

    Args:
        memory: bytes that they may take.
        largest: input tile as asked for, or as small as an out-of-memory asked for.
        batch: likewise.

    Raises:
        ConfigError: the tile asked for is too small for the network.
    """
    form = layout_for(networks[0], options)
    if largest is not None:
        plan = _plan(size, networks, options, form, largest, batch)
        return plan._replace(reason=_said(plan, "as set"))
    least = smallest(form, options)
    margin = geometry.margin(networks[0].form.depth)
    limit = fastest = max(_MARGINS * margin, _LEAST, least)
    plan = _plan(size, networks, options, form, (limit, limit), batch)
    while plan.bytes > memory and limit > least:
        limit = max(limit - max(form.stride, limit // 16), least)
        plan = _plan(size, networks, options, form, (limit, limit), batch)
    why = "larger ones gain little" if limit == fastest else f"all that {_bytes(memory)} hold"
    if plan.tiles == 1:
        why = "the whole image at once"
    if plan.bytes > memory:
        why = f"the smallest there is, though more than {_bytes(memory)}"
    return plan._replace(reason=_said(plan, why))


def smallest(form: Layout, options: PredictOptions) -> int:
    """The smallest input tile, pixels a side, that can be repeated."""
    if options.symmetries == "rotations7":
        return symmetries.least_tile(form)
    return form.smallest if options.blend == "exact" else 2 * form.stride


def _plan(
    size: tuple[int, int],
    networks: Sequence[Member],
    options: PredictOptions,
    form: Layout,
    largest: tuple[int, int],
    batch: int | None,
) -> Plan:
    square = None
    if options.symmetries == "rotations7":
        square = symmetries.square_for(size, form, min(largest))
        rows, columns = (symmetries.rotated_axis(n, square) for n in size)
        network_tile = (square.tile, square.tile)
        batch = 1
    else:
        rows, columns = (
            tiles.abutting(n, form, most)
            if options.blend == "exact"
            else tiles.overlapping(n, form, most, options.overlap)
            for n, most in zip(size, largest, strict=True)
        )
        network_tile = (rows.tile, columns.tile)
    if batch is None:
        batch = options.batch_size or max(_BATCH_PIXELS // (rows.tile * columns.tile), 1)
    batch = min(batch, columns.repeats)
    needed = _needed(size, networks, rows, columns, network_tile, batch)
    return Plan(rows, columns, network_tile, batch, needed, "", square)


def _needed(
    size: tuple[int, int],
    networks: Sequence[Member],
    rows: Axis,
    columns: Axis,
    network_tile: tuple[int, int],
    batch: int,
) -> int:
    """Bytes: the network's activations, tiles in and out, a row of tiles as read and as given."""
    form = networks[0].form
    tile = rows.tile * columns.tile * (3 * form.channels) + 3 * form.num_classes * (
        network_tile[0] * network_tile[1]
    )
    row = size[1] * (min(rows.tile, size[0]) * form.channels + 2 * rows.used * form.num_classes)
    activations = max(network_bytes(one.network, one.form, network_tile) for one in networks)
    return batch * (activations + 4 * tile) + 4 * row


def _said(plan: Plan, why: str) -> str:
    height, width = plan.network_tile
    step = (min(plan.rows.step, plan.rows.used), min(plan.columns.step, plan.columns.used))
    kept = step[0] * step[1] / (height * width)
    count = f"{plan.rows.repeats} × {plan.columns.repeats} tiles" if plan.tiles > 1 else "1 tile"
    return (
        f"{count} of {height} × {width} pixels, {kept:.0%} of them new, "
        f"about {_bytes(plan.bytes)}: {why}"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
