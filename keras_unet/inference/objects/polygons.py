"""The outlines of objects as polygons along pixel edges: exact, and traced without a pixel loop.

Pixel (row y, column x) is the square from corner (x, y) to (x + 1, y + 1). Every side between an
object and something else is an edge with the object on its right (as seen on the screen); each
corner joins one incoming to one outgoing edge, so that the edges of an object fall into cycles.
Only where two pixels of an object touch at a corner there is a choice. Pixels that are not
connected otherwise part there; connected ones stay together, since the ring would touch itself.
Hence the polygons are valid in the sense of OGC Simple Features (rings meet in points at most).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from keras_unet.inference.objects.measurements import row_bands

_GROUP = 1 << 20  # edges traced in one go
_RIGHT, _DOWN, _LEFT, _UP = range(4)  # the side above, to the right of, below, left of a pixel

Polygon = tuple[np.ndarray, ...]  # the outer ring, then the holes: int32 [N, 2] of (x, y), open


class Outline(NamedTuple):
    """An object's polygons: one for each of its 4-connected parts."""

    label: int
    polygons: tuple[Polygon, ...]


class _Edges(NamedTuple):
    start: np.ndarray  # corner number, int64: y * (W + 1) + x
    direction: np.ndarray  # int8
    label: np.ndarray  # int64


def outlines(instances: np.ndarray) -> Iterator[Outline]:
    """The outlines of all objects, labels ascending.

    Filling a polygon (outer ring less holes) gives the object's pixels again, no more and no
    fewer. Only corners are listed. Outer rings turn clockwise on the screen, holes the other way,
    so that both fill rules (even-odd and non-zero) agree; each ring starts at its top left corner.

    Args:
        instances: integer labels [H, W] >= 0, 0 = background.

    Yields:
        `Outline`s. Coordinates are pixel corners: the image reaches from (0, 0) to (W, H).
    """
    width = instances.shape[1] + 1
    edges = _edges(instances)
    order = np.argsort(edges.label, kind="stable")
    edges = _Edges(*(column[order] for column in edges))
    first = np.flatnonzero(np.diff(edges.label, prepend=-1))  # of each object
    begin = 0
    while begin < first.size:
        end = max(begin + 1, int(np.searchsorted(first, first[begin] + _GROUP)))
        last = first[end] if end < first.size else edges.label.size
        yield from _traced(_Edges(*(c[first[begin] : last] for c in edges)), width)
        begin = end


def _edges(labels: np.ndarray) -> _Edges:
    """All sides of pixels between different labels, once for each label above 0."""
    height, width = labels.shape
    corners = width + 1
    found: list[_Edges] = []

    def add(at: np.ndarray, owners: np.ndarray, direction: int) -> None:
        kept = owners > 0
        turns = np.full(int(kept.sum()), direction, np.int8)
        found.append(_Edges(at[kept], turns, owners[kept].astype(np.int64)))

    for rows in row_bands((height + 1, corners)):  # rows of corners: one more than of pixels
        block = np.zeros((rows.stop - rows.start + 1, width + 2), labels.dtype)
        pixels = slice(max(rows.start - 1, 0), min(rows.stop, height))
        offset = pixels.start - rows.start + 1  # the block begins one row above
        block[offset : offset + pixels.stop - pixels.start, 1:-1] = labels[pixels]
        above, below = block[:-1, 1:-1], block[1:, 1:-1]
        y, x = np.nonzero(above != below)
        at = (y + rows.start) * corners + x
        add(at, below[y, x], _RIGHT)
        add(at + 1, above[y, x], _LEFT)
        left, right = block[1:, :-1], block[1:, 1:]
        y, x = np.nonzero(left != right)
        at = (y + rows.start) * corners + x
        add(at, left[y, x], _DOWN)
        add(at + corners, right[y, x], _UP)
    return _Edges(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _traced(edges: _Edges, corners: int) -> Iterator[Outline]:
    """The outlines of some objects, from all their edges (sorted by label)."""
    count = edges.label.size
    objects = np.cumsum(np.diff(edges.label, prepend=edges.label[:1]) != 0)
    following, by_start = _successors(edges, objects, corners)
    ring, heads = _rings(following, by_start)

    # All rings behind one another: the last edge of each leads to the first of the next, and a
    # search from the first edge visits them in order.
    before = np.empty(count, np.int64)
    before[following] = np.arange(count)
    chain = following.copy()
    chain[before[heads]] = np.roll(heads, -1)
    sequence = breadth_first_order(_graph(chain), heads[0], return_predecessors=False)

    turns = edges.direction[sequence] != edges.direction[before[sequence]]
    corner = edges.start[sequence[turns]]
    of_ring = ring[sequence[turns]]
    points = np.stack([corner % corners, corner // corners], axis=1).astype(np.int32)
    ends = np.cumsum(np.bincount(of_ring, minlength=heads.size))
    starts = np.concatenate([[0], ends[:-1]])
    outer = _signed_areas(points, starts, ends) > 0
    parent = _parents(edges, objects, ring, outer, corners)

    holes: dict[int, list[np.ndarray]] = {}
    for number in np.flatnonzero(~outer).tolist():
        holes.setdefault(int(parent[number]), []).append(points[starts[number] : ends[number]])
    parts: dict[int, list[Polygon]] = {}
    names = edges.label[heads]
    for number in np.flatnonzero(outer).tolist():
        polygon = (points[starts[number] : ends[number]], *holes.get(number, ()))
        parts.setdefault(int(names[number]), []).append(polygon)
    for label, polygons in parts.items():
        yield Outline(label, tuple(polygons))


def _successors(edges: _Edges, objects: np.ndarray, corners: int) -> tuple[np.ndarray, np.ndarray]:
    """The edge that follows each one, and the edges ordered by object and place."""
    step = np.array([1, corners, -1, -corners])
    space = int(edges.start.max(initial=0)) + corners + 2
    leaving = (objects * space + edges.start) * 4
    arriving = (objects * space + edges.start + step[edges.direction]) * 4
    by_start = np.argsort(leaving + edges.direction)

    def paired(turn: int) -> np.ndarray:
        """Sorted likewise, the edges that arrive at corners match those that leave them."""
        following = np.empty(by_start.size, np.int64)
        following[np.argsort(arriving + (edges.direction + turn) % 4)] = by_start
        return following

    apart, together = paired(1), paired(-1)  # around the own pixel, or on to the one opposite
    choice = np.flatnonzero(apart != together)
    if choice.size:
        ring = _components(apart)
        # one ring that comes back to this corner: the two pixels are connected elsewhere
        same = choice[ring[choice] == ring[together[choice]]]
        apart[same] = together[same]
    return apart, by_start


def _rings(following: np.ndarray, by_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each edge's ring, and each ring's first edge; rings by object, then by place."""
    ring = _components(following)
    heads = np.empty(int(ring.max()) + 1, np.int64)
    heads[ring[by_start[::-1]]] = by_start[::-1]  # what is written last stays: the first in order
    place = np.empty(by_start.size, np.int64)
    place[by_start] = np.arange(by_start.size)
    order = np.argsort(place[heads])
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank[ring], heads[order]


def _parents(
    edges: _Edges, objects: np.ndarray, ring: np.ndarray, outer: np.ndarray, corners: int
) -> np.ndarray:
    """For each ring the outer ring of its polygon.

    Left of a hole's leftmost side the object begins at some side that faces left: that of its
    outer ring, or of a hole yet farther left.
    """
    parent = np.arange(outer.size)
    if outer.all():
        return parent
    y, x = edges.start // corners, edges.start % corners
    space = int(y.max()) + 1
    lefts = np.flatnonzero(edges.direction == _UP)
    key = (objects[lefts] * space + y[lefts] - 1) * corners + x[lefts]
    lefts, key = lefts[np.argsort(key)], np.sort(key)
    sides = np.flatnonzero((edges.direction == _DOWN) & ~outer[ring])
    sides = sides[np.argsort(x[sides], kind="stable")[::-1]]
    leftmost = np.full(outer.size, -1)
    leftmost[ring[sides]] = sides
    sides = leftmost[~outer]
    wanted = (objects[sides] * space + y[sides]) * corners + x[sides] - 1
    parent[~outer] = ring[lefts[np.searchsorted(key, wanted, side="right") - 1]]
    while not outer[parent].all():
        parent = parent[parent]
    return parent


def _signed_areas(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Twice the areas, int64; positive for rings that turn clockwise on the screen."""
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    x, y = points.T.astype(np.int64)
    return np.add.reduceat(x * y[following] - x[following] * y, starts)


def _graph(following: np.ndarray) -> csr_array:
    size = following.size
    parts = (
        np.ones(size, np.int8),
        following.astype(np.int32),
        np.arange(size + 1, dtype=np.int32),
    )
    return csr_array(parts, shape=(size, size))


def _components(following: np.ndarray) -> np.ndarray:
    return connected_components(_graph(following))[1]
