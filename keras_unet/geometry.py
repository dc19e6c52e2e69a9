"""Geometry of the U-Net: its steps in order, and the sizes, margins and reach that follow.

Integers only, no TensorFlow. `walk` is the one description of the network: `build_unet` builds it,
and plans, memory and reach are computed from it.

With unpadded ("valid") convolutions the output is smaller than the input (paper, section 2,
figure 1: 572 -> 388), and only some input sizes pass every 2x2 max pooling without a remainder
(section 2, last paragraph). With `b` the size after the bridge's convolutions and `d` the depth:

    input  = 2^d * (b + 8) - 4
    output = 2^d * (b - 4) + 4        input - output = 12 * 2^d - 8

Sizes are an int or a (height, width) pair; what comes in as a pair goes out as a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeVar

from keras_unet.errors import ConfigError

Padding = Literal["valid", "same"]
Upsampling = Literal["transpose", "bilinear", "nearest"]
Normalization = Literal["batch", "group", "layer"]
Size = TypeVar("Size", int, tuple[int, int])
ANY_SIZE = 'padding="same" takes any size, and so does keras_unet.predict'


class Step(NamedTuple):
    """A step through the network.

    kind: "convolution"; "pool", 2x2; "up", the 2x2 up-convolution; "join", of a skip connection,
        cut to size, and what comes from below; "logits", the last 1x1 convolution.
    level: 1 at full resolution, depth + 1 is the bridge.
    name: of the layer, or of what its layers' names begin with: "down1_conv1", "up4".
    kernel: its side in pixels; 0 without one.
    incoming, outgoing: channels.
    """

    kind: Literal["convolution", "pool", "up", "join", "logits"]
    level: int
    name: str
    kernel: int
    incoming: int
    outgoing: int


def walk(depth: int = 4, filters: int = 64, channels: int = 1, classes: int = 2) -> Iterator[Step]:
    """Every step of the network, in the order in which it is computed."""

    def double_convolution(level: int, name: str, incoming: int, own: int) -> Iterator[Step]:
        yield Step("convolution", level, f"{name}_conv1", 3, incoming, own)
        yield Step("convolution", level, f"{name}_conv2", 3, own, own)

    incoming = channels
    for level in range(1, depth + 1):  # the contracting path
        own = filters * 2 ** (level - 1)
        yield from double_convolution(level, f"down{level}", incoming, own)
        yield Step("pool", level, f"down{level}_pool", 0, own, own)
        incoming = own
    yield from double_convolution(depth + 1, "bridge", incoming, filters * 2**depth)
    for level in range(depth, 0, -1):  # the expansive path
        own = filters * 2 ** (level - 1)
        yield Step("up", level, f"up{level}_upconv", 2, 2 * own, own)
        yield Step("join", level, f"up{level}", 0, own, 2 * own)
        yield from double_convolution(level, f"up{level}", 2 * own, own)
    yield Step("logits", 1, "logits", 1, filters, classes)


def output_size(size: Size, depth: int = 4, padding: Padding = "valid") -> Size:
    """Output size of a U-Net for an input of `size` pixels.

    Raises:
        ConfigError: `size` is illegal; the message names the two nearest legal sizes.
    """
    _check(depth, padding)
    return _each(size, lambda n: _output(n, depth, padding))


def input_size(size: Size, depth: int = 4, padding: Padding = "valid") -> Size:
    """The smallest legal input whose output covers at least `size` pixels (388 -> 572)."""
    _check(depth, padding)
    return _each(size, lambda n: _input(n, depth, padding))


def nearest_sizes(size: int, depth: int = 4, padding: Padding = "valid") -> tuple[int, ...]:
    """The legal input sizes nearest to `size`: itself if legal, else one or two around it."""
    _check(depth, padding)
    if padding == "same":
        return (max(_integer(size), 1),)
    smallest = _input(1, depth, padding)
    if _integer(size) <= smallest:
        return (smallest,)
    below = size - (size - smallest) % stride(depth)
    return (below,) if below == size else (below, below + stride(depth))


def crops(depth: int = 4, padding: Padding = "valid") -> tuple[int, ...]:
    """Pixels cut from each side of a skip connection, deepest level first: (4, 16, 40, 88)."""
    _check(depth, padding)
    return _through(_input(1, depth), depth)[1] if padding == "valid" else (0,) * depth


def margin(depth: int = 4, padding: Padding = "valid") -> int:
    """Pixels of context on each side of the output: (input - output) / 2, 92 at depth 4."""
    _check(depth, padding)
    smallest = _input(1, depth, padding)
    return (smallest - _through(smallest, depth)[0]) // 2 if padding == "valid" else 0


def stride(depth: int = 4) -> int:
    """Shift, in pixels, under which a U-Net is equivariant: the product of its poolings.

    Tiles whose origins differ by a multiple of it see the same pooling windows, and only then do
    their outputs equal those of the network run once over the whole image.
    """
    _check(depth, "valid")
    return 2**depth


def receptive_field(depth: int = 4, upsampling: Upsampling = "transpose") -> int:
    """Width, in pixels, of the input that one output pixel can depend on: 204 at depth 4.

    It varies with the pixel's place among the pooling windows; this is the largest.
    """
    return max(high - low + 1 for _, low, high in _seen(depth, upsampling))


def reach(depth: int = 4, upsampling: Upsampling = "transpose") -> int:
    """How far, in pixels, an output pixel sees to either side at the most: 107 at depth 4.

    A tile with that much context gives the same output as the whole image, for either padding.
    """
    seen = _seen(depth, upsampling)
    return max(max(pixel - low, high - pixel) for pixel, low, high in seen)


def padded_edges(depth: int = 4, upsampling: Upsampling = "transpose") -> tuple[int, int]:
    """Output pixels, at the start and at the end, that see padding even in a "valid" network.

    The 2x2 convolution after an upsampling is padded by a zero at its end, and bilinear upsampling
    repeats both edge pixels; each later upsampling doubles what they reach. None for the paper's
    up-convolution.
    """
    _check(depth, "valid")
    before = after = 0
    for _ in range(depth):
        if upsampling == "nearest":
            after = 2 * after + 1
        elif upsampling == "bilinear":
            before, after = 2 * before + 1, 2 * after + 2
    return before, after


def _seen(depth: int, upsampling: Upsampling) -> list[tuple[int, int, int]]:
    """(output pixel, first, last input pixel it sees) for every phase, centres aligned."""
    _check(depth, "valid")
    below = 1 if upsampling == "bilinear" else 0
    above = {"transpose": 0, "nearest": 1, "bilinear": 2}[upsampling]
    back, seen = list(walk(depth))[::-1], []
    for pixel in range(2**depth):
        low = high = pixel
        for step in back:
            if step.kind == "pool":  # a window of two pixels
                low, high = 2 * low, 2 * high + 1
            elif step.kind == "up":  # one pixel below, and what a resizing reads beside it
                low, high = (low - below) // 2, (high + above) // 2
            elif step.kernel:
                low, high = low - (step.kernel - 1) // 2, high + step.kernel // 2
        seen.append((pixel, low, high))
    return seen


def _through(size: int, depth: int) -> tuple[int, tuple[int, ...]]:
    """Of a legal input without padding: its output, and what is cut from each side of the skips,
    deepest first."""
    skips: list[int] = []
    cut: list[int] = []
    for step in walk(depth):
        if step.kind == "pool":
            skips.append(size)
            size //= 2
        elif step.kind == "up":
            size *= 2
        elif step.kind == "join":
            cut.append((skips.pop() - size) // 2)
        else:
            size -= step.kernel - 1
    return size, tuple(cut)


def _output(size: int, depth: int, padding: Padding) -> int:
    legal = nearest_sizes(size, depth, padding)
    if legal != (size,):
        options = " and ".join(str(n) for n in legal)
        raise ConfigError(
            f"input size {size} does not fit a U-Net of depth {depth} with {padding} padding: "
            f"nearest legal {'sizes are' if len(legal) > 1 else 'size is'} {options}; {ANY_SIZE}"
        )
    return size - 2 * margin(depth, padding)


def _input(size: int, depth: int, padding: Padding = "valid") -> int:
    if _integer(size) < 1:
        raise ConfigError(f"a size must be at least 1 pixel, got {size}")
    if padding == "same":
        return size
    for step in reversed(list(walk(depth))):
        if step.kind == "pool":
            size = 2 * size
        elif step.kind == "up":
            size = -(-size // 2)
        elif step.kernel:
            size += step.kernel - 1
    return size


def _each(size: Size, function: Callable[[int], int]) -> Size:
    if isinstance(size, (tuple, list)):
        if len(size) != 2:
            raise ConfigError(f"a size is an int or a (height, width) pair, got {size!r}")
        return (function(size[0]), function(size[1]))
    return function(size)


def _integer(size: int) -> int:
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise ConfigError(f"a size must be an integer, got {size!r}")
    return int(size)


def _check(depth: int, padding: Padding) -> None:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ConfigError(f"depth must be an integer >= 1, got {depth!r}")
    if padding not in ("valid", "same"):
        raise ConfigError(f'padding must be "valid" or "same", got {padding!r}')
