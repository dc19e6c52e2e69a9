"""Pictures for people who look before they read: colours, overlays, legends, curves, masks, as PNG.

What only some pictures need, as Matplotlib's font, is imported where it is used.
"""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from keras_unet.disk import replacing

# Okabe & Ito 2008: told apart by colour-blind readers too; the background's first
COLORS = np.array(
    [
        *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)),
        *((240, 228, 66), (213, 94, 0), (0, 114, 178), (204, 121, 167)),
    ],
    np.uint8,
)
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_SIZE = "Picture size"  # a PNG's text: that of the picture above its legend
_CLASSES = "Classes"  # a mask's text: a line a class
# what is marked in a picture of errors; where one pixel must stand for many, the largest wins
OUTLINE, CONFUSED, FALSE, MISSED = 1, 2, 3, 4


class Mark(NamedTuple):
    """How one kind of error is drawn, and what a legend calls it."""

    kind: int
    color: tuple[int, int, int]
    strength: float
    text: str


# of objects: none that marks an error, all told apart by colour-blind readers (simulated)
OBJECT_COLORS = np.array(
    [
        *((230, 159, 0), (100, 143, 255), (204, 121, 167)),
        *((0, 229, 255), (255, 170, 187), (255, 255, 255)),
    ],
    np.uint8,
)
_LARGE = 1024  # pixels a side: beyond, lines are two pixels wide
MARKS = (
    Mark(OUTLINE, (0, 158, 115), 0.5, "true outline"),
    Mark(CONFUSED, (240, 228, 66), 0.7, "another class"),
    Mark(FALSE, (213, 94, 0), 0.7, "false foreground"),
    Mark(MISSED, (0, 114, 178), 0.7, "missed foreground"),
)


class Entry(NamedTuple):
    """A line of a legend: a colour, or None for a remark, and what it stands for."""

    color: Sequence[int] | None
    text: str


NEIGHBOURS = Entry(None, "colours only tell neighbours apart")


def class_color(classes: np.ndarray | int) -> np.ndarray:
    """The colours of foreground classes, numbers from 1 on, in turn: uint8 [..., 3]."""
    return COLORS[1 + (np.asarray(classes) - 1) % (len(COLORS) - 1)]


def mask_palette(values: Iterable[int] = range(256)) -> np.ndarray | None:
    """The colours of a mask's numbers, uint8 [256, 3]: black for the first class, then in turn.

    None where the numbers are no indices of a palette (above 255), or need none: 0 and 255 are
    black and white as they are, for programs too that take a palette's colours for the pixels.

    Args:
        values: of the classes, the background's first; other numbers have their own class's colour.
    """
    values = list(values)
    if min(values) < 0 or max(values) > 255 or set(values) <= {0, 255}:
        return None
    palette = np.vstack([COLORS[:1], class_color(np.arange(1, 256))])
    palette[values] = np.vstack([COLORS[:1], class_color(np.arange(1, len(values)))])
    return palette


def contrast(image: np.ndarray) -> tuple[float, float]:
    """The values that are shown black and white.

    8-bit RGB is shown as it is, from 0 to 255; anything else from the 0.5 to the 99.5 percent of
    all its values, since 16-bit and float images would be black, and dim ones nearly so.

    Args:
        image: [H, W, C] of any real type.
    """
    if image.dtype == np.uint8 and image.shape[-1] in (3, 4):
        return 0.0, 255.0
    low, high = np.percentile(image.astype(np.float32), [0.5, 99.5])
    return float(low), float(high)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, C] of any number type -> [H, W, 3] uint8.

    8-bit RGB stays as it is; others get the contrast of `contrast`.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    low, high = contrast(image)
    values = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.broadcast_to(np.rint(values), (*values.shape[:2], 3)).astype(np.uint8)


def overlay(image: np.ndarray, classes: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Draws a segmentation over its image.

    Without `truth`, each class but the background is tinted and outlined. With it, the image is
    grey and only errors are coloured: blue where foreground was missed, red where background was
    taken for it, yellow where two foreground classes were confused; the truth's outlines are green.

    Args:
        image: [H, W, C], any number type. classes: [H, W] int. truth: [H, W] int, -1 = ignored.

    Returns:
        [H, W, 3] uint8.
    """
    from skimage.segmentation import find_boundaries

    canvas = to_rgb(image).astype(np.float32)
    if truth is None:
        tint = class_color(classes).astype(np.float32)
        foreground = classes > 0
        canvas[foreground] = 0.65 * canvas[foreground] + 0.35 * tint[foreground]
        edge = find_boundaries(classes, mode="inner") & foreground
        canvas[edge] = tint[edge]
        return canvas.astype(np.uint8)
    canvas[:] = (canvas @ _LUMINANCE)[..., None]
    marks = error_marks(classes, truth)
    for mark in MARKS:
        at = marks == mark.kind
        canvas[at] = (1 - mark.strength) * canvas[at] + mark.strength * np.array(mark.color)
    return canvas.astype(np.uint8)


def object_overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Outlines each object on its own inner pixels, in the colours of `object_colors`.

    The line is one pixel wide, two in pictures of more than 1024 pixels a side.

    Args:
        image: [H, W] or [H, W, C], any number type. labels: int [H, W], object numbers, 0 = none.

    Returns:
        [H, W, 3] uint8; whatever is no outline is as `to_rgb` gives it.
    """
    canvas = to_rgb(image).copy()
    edge = _inner_edge(labels, 1 + (max(labels.shape) > _LARGE))
    colors = object_colors(labels)
    if colors:
        at = np.searchsorted([*colors], labels[edge])
        canvas[edge] = np.array([*colors.values()], np.uint8)[at]
    return canvas


def object_colors(labels: np.ndarray) -> dict[int, tuple[int, ...]]:
    """A colour for each object, (red, green, blue) by its number, numbers in their order.

    They are `OBJECT_COLORS` in turn, but another one where a neighbour has it: objects of one piece
    that share an edge never have one colour, and others up to three pixels apart hardly ever. The
    same labels give the same colours.

    Args:
        labels: int [H, W], a number an object, 0 = none.
    """
    numbers = _numbers(labels)
    beside, near = _neighbours(labels, numbers, reach=3)
    many = len(OBJECT_COLORS)
    chosen: dict[int, int] = {}
    for place in _smallest_last(len(numbers), beside):
        cost: Counter[int] = Counter()
        for graph, weight in ((beside, 1 << 20), (near, 1)):
            for other in graph.get(place, ()):
                if other in chosen:
                    cost[chosen[other]] += weight
        in_turn = ((int(numbers[place]) - 1 + step) % many for step in range(many))
        chosen[place] = min(in_turn, key=cost.__getitem__)
    colors = [tuple(color) for color in OBJECT_COLORS.tolist()]
    return {number: colors[chosen[place]] for place, number in enumerate(numbers.tolist())}


def _numbers(labels: np.ndarray) -> np.ndarray:
    """The numbers of all objects, int64, ascending."""
    if labels.max(initial=0) > labels.size:
        return np.unique(labels[labels > 0]).astype(np.int64)
    return np.flatnonzero(np.bincount(np.maximum(labels, 0).ravel())[1:]) + 1  # no sorting


def _inner_edge(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of objects, bool [H, W], at most so far along a row or column from another number."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for here, there in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differs = labels[here] != labels[there]
            edge[here] |= differs
            edge[there] |= differs
    return edge & (labels > 0)


Graph = dict[int, set[int]]  # neighbours by places among the numbers


def _neighbours(labels: np.ndarray, numbers: np.ndarray, reach: int) -> tuple[Graph, Graph]:
    """Who shares an edge with whom, and who else is at most `reach` pixels away."""
    rows, columns = np.nonzero(_inner_edge(labels, 1))
    padded = np.pad(labels, reach)
    own, many = labels[rows, columns], len(numbers)
    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])  # smaller place * many + larger one
    for down in range(reach + 1):
        for right in range(-reach if down else 1, reach + 1):
            other = padded[rows + reach + down, columns + reach + right]
            at = (other > 0) & (other != own)
            a, b = (np.searchsorted(numbers, found[at]) for found in (own, other))
            codes = np.minimum(a, b) * many + np.maximum(a, b)
            pairs[down + abs(right) > 1].append(np.unique(codes))
    graphs: tuple[Graph, Graph] = ({}, {})
    for graph, codes in zip(graphs, map(np.concatenate, pairs), strict=True):
        for code in np.unique(codes).tolist():
            one, two = divmod(code, many)
            graph.setdefault(one, set()).add(two)
            graph.setdefault(two, set()).add(one)
    return graphs


def _smallest_last(count: int, graph: Graph) -> list[int]:
    """0 … count - 1 in an order in which few neighbours of each come before it.

    At most five if the graph lies in a plane, so that six colours do (Matula & Beck 1983).
    """
    left = {place: len(graph.get(place, ())) for place in range(count)}
    heap = [(degree, place) for place, degree in left.items()]
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        degree, place = heapq.heappop(heap)
        if left.get(place) != degree:  # counted anew, or in the order already
            continue
        del left[place]
        order.append(place)
        for other in graph.get(place, ()):
            if other in left:
                left[other] -= 1
                heapq.heappush(heap, (left[other], other))
    return order[::-1]


def object_entries(count: int) -> list[Entry]:
    """The legend of `object_overlay`: it has a line of text, its colours mean nothing."""
    many = "1 object" if count == 1 else f"{count:,} objects"
    return [Entry(None, f"{many}, an outline each"), NEIGHBOURS]


def error_marks(classes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What `overlay` colours: uint8 [H, W], OUTLINE, CONFUSED, FALSE, MISSED, or 0 for nothing.

    Args:
        classes: [H, W] int. truth: [H, W] int, -1 = ignored.
    """
    from skimage.segmentation import find_boundaries

    marks = np.zeros(truth.shape, np.uint8)
    marks[(truth > 0) & (classes > 0) & (truth != classes)] = CONFUSED
    marks[(truth == 0) & (classes > 0)] = FALSE
    marks[(truth > 0) & (classes == 0)] = MISSED
    marks[find_boundaries(truth, mode="inner") & (truth >= 0) & (marks == 0)] = OUTLINE
    return marks


def class_entries(classes: np.ndarray, names: Sequence[str]) -> list[Entry]:
    """The legend of an overlay without truth: its foreground classes.

    Args:
        classes: integers >= 0 of any shape. names: of all classes, the background's first.
    """
    found = np.flatnonzero(np.bincount(classes.ravel(), minlength=len(names))).tolist()
    entries = [Entry(class_color(number).tolist(), names[number]) for number in found if number]
    return entries or [Entry(None, f"{names[0]} only")]


def error_entries(classes: int) -> list[Entry]:
    """The legend of a picture of errors: with two classes there is no other one."""
    marks = [mark for mark in reversed(MARKS) if classes > 2 or mark.kind != CONFUSED]
    return [Entry(mark.color, mark.text) for mark in marks]


def with_legend(pixels: np.ndarray, entries: Sequence[Entry]) -> np.ndarray:
    """A picture, and below it a strip that names its colours.

    Args:
        pixels: uint8 [H, W, 3]. entries: of the legend.

    Returns:
        uint8 [H + h, w, 3], w >= W where a text needs it; the picture is [:H, :W] of it.
    """
    from matplotlib import get_data_path

    height, width = pixels.shape[:2]
    size = int(np.clip(width / 60, 12, 28))
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    texts = [f"{' '.join(entry.text.split()):.80}" for entry in entries]
    swatches = [0 if entry.color is None else 2 * size for entry in entries]
    widths = [swatch + font.getlength(text) for swatch, text in zip(swatches, texts, strict=True)]
    wide = max(width, int(max(widths)) + size)
    places = list(_lines(widths, wide - size / 2, gap=1.5 * size))
    line = round(1.6 * size)
    rows = (places[-1][1] + 1) * line + size // 2
    canvas = Image.new("RGB", (wide, height + rows), "white")
    canvas.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(canvas)
    for entry, text, swatch, (x, row) in zip(entries, texts, swatches, places, strict=True):
        left, middle = x + size / 2, height + size // 4 + (row + 0.5) * line
        if entry.color is not None:
            box = (left, middle - size / 2, left + 1.5 * size, middle + size / 2)
            draw.rectangle(box, fill=tuple(entry.color), outline=(128, 128, 128))
        draw.text((left + swatch, middle), text, fill=(0, 0, 0), font=font, anchor="lm")
    return np.asarray(canvas)


def _lines(widths: Sequence[float], wide: float, gap: float) -> Iterator[tuple[float, int]]:
    """Where texts of these widths begin, side by side while there is room: x and line."""
    x, row = 0.0, 0
    for width in widths:
        if x and x + width > wide:
            x, row = 0.0, row + 1
        yield x, row
        x += width + gap


def save_png(path: Path, pixels: np.ndarray, legend: Sequence[Entry] = ()) -> None:
    """Writes uint8 or uint16 pixels [H, W] or [H, W, 3] as a PNG, whole or not at all.

    With a legend it is that of `with_legend`, and knows the size of the picture in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if legend:
        info.add_text(_SIZE, "{1}x{0}".format(*pixels.shape))
        pixels = with_legend(pixels, legend)
    with replacing(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG", pnginfo=info)


def save_mask(path: Path, mask: np.ndarray, classes: Mapping[int, str] | None = None) -> None:
    """Writes a mask as a PNG whose numbers are the mask's, whole or not at all.

    It has the palette of `mask_palette`, so that viewers show colours; without one it is grey.

    Args:
        path: of the file.
        mask: uint8 or uint16 [H, W].
        classes: names by the classes' numbers, the background's first, kept as a text of the file
            ("Classes"; a line a class: number, name, colour if it has one). None: nobody says; each
            number is taken for its class.
    """
    if classes:
        palette = mask_palette(classes)
    else:
        palette = (
            None if mask.dtype != np.uint8 or np.isin(mask, (0, 255)).all() else mask_palette()
        )
    info = PngInfo()
    if classes:
        lines = [f"{value} {' '.join(name.split())}" for value, name in classes.items()]
        if palette is not None:
            colors = (palette[value].tobytes().hex() for value in classes)
            lines = [f"{line} #{color}" for line, color in zip(lines, colors, strict=True)]
        info.add_text(_CLASSES, "\n".join(lines))
    picture = Image.fromarray(mask)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        picture.save(beside, format="PNG", pnginfo=info)


def without_legend(picture: Image.Image) -> Image.Image:
    """The picture in a file of `save_png`; another file's as it is."""
    size = picture.info.get(_SIZE)
    if size is None:
        return picture
    width, height = map(int, size.split("x"))
    return picture.crop((0, 0, width, height))


def curves(history: Path, picture: Path, loss: str = "cross-entropy") -> None:
    """Draws losses over the steps, and validation scores where there are any.

    Args:
        history: the run's history.csv.
        picture: the PNG to write.
        loss: what it is called.
    """
    from matplotlib.figure import Figure

    with history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    columns = {
        name: [float(row[name]) if row[name] else np.nan for row in rows] for name in rows[0]
    }
    step = columns["step"]
    losses = [name for name in ("loss", "val_loss") if name in columns]
    scores = ("val_mean_dice", "val_mean_iou", "val_pixel_accuracy")
    scores_there = [name for name in scores if name in columns]
    panels: list[tuple[list[str], dict[str, Any]]] = [(losses, {"ylabel": loss, "yscale": "log"})]
    if scores_there:
        panels.append((scores_there, {"ylabel": "validation score", "ylim": (None, 1)}))
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (names, options) in zip(every, panels, strict=True):
        for name in names:
            label = name if name == "val_loss" else name.removeprefix("val_")
            axes.plot(step, columns[name], label=label.replace("_", " "))
        axes.set(xlabel="optimiser step", **options)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    with replacing(picture) as beside:
        figure.savefig(beside, dpi=130)
