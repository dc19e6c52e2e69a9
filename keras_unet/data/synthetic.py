"""Synthetic data set that needs no download: touching cells as a microscope shows them.

The picture is made of the difficulties that the U-Net is for: cells that touch and are parted
only by thin dark membranes, light that falls off across the field, texture, out-of-focus haze
and noise. A single threshold does badly on it; a small U-Net does well.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from keras_unet.errors import ConfigError
from keras_unet.remote_path import local_path

MEMBRANE = 1.3  # half width of a membrane, px
SPLITS = ("train", "val")


class _Tissue(NamedTuple):
    """Geometry of the cells, before any light falls on them; all [H, W]."""

    labels: np.ndarray  # int32, 0 = background
    inside: np.ndarray  # float32, px from the cell's border, 0 outside
    radial: np.ndarray  # float32, px from the cell's centre
    cells: int


def make_cells(
    size: int | tuple[int, int] = (256, 256),
    *,
    seed: int,
    diameter: float = 30.0,
    coverage: float = 0.6,
    light: float = 0.6,
    noise: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """One picture of touching cells and its instance labels.

    Args:
      size: pixels, an int or (height, width), each at least 16.
      seed: the same seed and arguments give the same bytes.
      diameter: mean distance between neighbouring cells, px (at least 8).
      coverage: share of the field that cells may grow in, 0 < coverage ≤ 1.
      light: unevenness of the illumination, 0 (flat) to 1.
      noise: standard deviation of the noise at mid grey, as a share of the full range.

    Returns:
      image uint8 [H, W] and labels int32 [H, W]: 0 is background, each cell is one
      4-connected region numbered from 1 upwards without gaps. Neighbouring cells touch in the
      labels; the dark membrane between them belongs to both.

    Raises:
      ConfigError: an argument is out of range.
    """
    height, width = _size(size)
    for name, value, low, high in (
        ("diameter", diameter, 8.0, float("inf")),
        ("coverage", coverage, 0.01, 1.0),
        ("light", light, 0.0, 1.0),
        ("noise", noise, 0.0, 1.0),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; expected {low:g} to {high:g}")
    rng = np.random.default_rng(seed)
    tissue = _grow(rng, (height, width), diameter, coverage)
    return _photograph(rng, tissue, diameter, light, noise), tissue.labels


def write_dataset(
    folder: str | Path,
    *,
    train: int = 16,
    val: int = 4,
    size: int | tuple[int, int] = (256, 256),
    seed: int = 0,
    diameter: float = 30.0,
) -> Path:
    """Writes `folder`/{train,val}/{images,labels}/cells_000.png … and returns `folder`.

    Images are 8-bit PNG, labels 16-bit PNG with instance numbers (0 = background). The n-th
    picture of a split depends on (seed, split, n) only, so a larger set begins with the smaller
    one. Pictures of an earlier call that this one does not write again are removed.

    Raises:
      ConfigError: a count is negative, or the size is out of range.
    """
    folder = local_path(folder)
    _size(size)
    for split, count in zip(SPLITS, (train, val), strict=True):
        if count < 0:
            raise ConfigError(f"{split} is {count}; expected 0 or more pictures")
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for stale in (folder / split / kind).glob("cells_*.png"):
                stale.unlink()
        for n in range(count):
            own = np.random.SeedSequence([seed, SPLITS.index(split), n]).generate_state(1)[0]
            image, labels = make_cells(size, seed=int(own), diameter=diameter)
            name = f"cells_{n:03d}.png"
            Image.fromarray(image).save(folder / split / "images" / name)
            Image.fromarray(labels.astype(np.uint16)).save(folder / split / "labels" / name)
    return folder


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ConfigError(f"size is {height}x{width}; expected at least 16x16 pixels")
    return int(height), int(width)


def _smooth(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """float32 [H, W] noise of mean 0 and std 1 whose blobs are about `scale` px wide."""
    # Drawn coarsely and enlarged by splines: a wide Gaussian over all pixels costs far more.
    step = max(1.0, scale / 3.0)
    coarse = [int(np.ceil(n / step)) + 5 for n in size]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), scale / step / 2)
    if step > 1:
        field = ndimage.zoom(field, step, order=1)
        field = ndimage.uniform_filter(field, int(step) | 1)
    field = field[: size[0], : size[1]]
    return (field - field.mean()) / (field.std() + 1e-6)


def _grow(
    rng: np.random.Generator, size: tuple[int, int], diameter: float, coverage: float
) -> _Tissue:
    """Cells as the power diagram of jittered seeds in warped coordinates, cut at a radius."""
    height, width = size
    centres = _centres(rng, size, diameter)
    tissue = _smooth(rng, size, 3.8 * diameter)
    at = np.clip(centres.astype(int), 0, np.array(size) - 1)
    keep = tissue[at[:, 0], at[:, 1]] <= np.quantile(tissue, coverage)
    keep[np.argmin(((centres - np.array(size) / 2) ** 2).sum(1))] = True  # never an empty picture
    centres = centres[keep]
    radii = diameter * rng.uniform(0.5, 0.68, len(centres)).astype(np.float32)

    warp = [0.13 * diameter * _smooth(rng, size, 0.9 * diameter) for _ in range(2)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack([y + warp[0], x + warp[1]], -1).reshape(-1, 2)
    # The two nearest by d² − r²: a third coordinate turns the power distance into a plain one.
    lift = np.sqrt(np.maximum(radii.max() ** 2 - radii**2, 0))
    tree = cKDTree(np.column_stack([centres, lift]))
    _, near = tree.query(np.column_stack([points, np.zeros(len(points))]), k=2, workers=1)
    near = np.minimum(near, len(centres) - 1)  # a lone cell has no second neighbour
    first, second = near[:, 0], near[:, 1]
    d1 = np.linalg.norm(points - centres[first], axis=1)
    d2 = np.linalg.norm(points - centres[second], axis=1)
    gap = np.linalg.norm(centres[first] - centres[second], axis=1)
    power = d2**2 - radii[second] ** 2 - d1**2 + radii[first] ** 2
    to_neighbour = np.where(gap > 0, power / (2 * np.maximum(gap, 1e-3)), np.inf)
    inside = np.minimum(to_neighbour, radii[first] - d1).reshape(size)
    labels = np.where(inside > 0, first.reshape(size) + 1, 0)
    labels, count = _whole_cells(labels, 0.15 * diameter**2)
    inside = np.where(labels > 0, np.maximum(inside, 0), 0)
    return _Tissue(labels, inside.astype(np.float32), d1.reshape(size), count)


def _centres(rng: np.random.Generator, size: tuple[int, int], diameter: float) -> np.ndarray:
    """float64 [N, 2]: a hexagonal grid over the field and one cell around it, jittered."""
    rows = np.arange(-diameter, size[0] + diameter, diameter * 0.87)
    columns = np.arange(-diameter, size[1] + diameter, diameter)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + 0.5 * diameter * (np.arange(len(rows)) % 2)[:, None]
    grid = np.stack([y, x], -1).reshape(-1, 2)
    return grid + rng.uniform(-0.24, 0.24, grid.shape) * diameter


def _whole_cells(labels: np.ndarray, least: float) -> tuple[np.ndarray, int]:
    """Keeps each cell's largest 4-connected piece if it has `least` px; numbers cells 1…n."""
    from skimage.measure import label as components  # slow to import, and needed here only

    pieces = components(labels, connectivity=1, background=0)
    area = np.bincount(pieces.ravel())
    owner = np.zeros(len(area), np.int64)
    owner[pieces.ravel()] = labels.ravel()
    best: dict[int, int] = {}
    for piece in np.argsort(area[1:], kind="stable") + 1:  # the largest comes last and stays
        if area[piece] >= least:
            best[int(owner[piece])] = int(piece)
    number = np.zeros(len(area), np.int32)
    number[sorted(best.values())] = np.arange(1, len(best) + 1)
    return number[pieces], len(best)


def _photograph(
    rng: np.random.Generator, tissue: _Tissue, diameter: float, light: float, noise: float
) -> np.ndarray:
    """uint8 [H, W]: stain, texture, membranes, haze, light, optics, noise: in this order."""
    size = tissue.labels.shape
    height, width = size
    cells = tissue.labels > 0
    stain = np.concatenate([[0.0], rng.uniform(0.43, 0.66, tissue.cells)])[tissue.labels]
    fine, coarse = _smooth(rng, size, 3.0), _smooth(rng, size, 9.0)
    body = stain * (1 + 0.10 * fine + 0.12 * coarse)
    nucleus = np.concatenate([[0.0], rng.uniform(-0.16, 0.12, tissue.cells)])[tissue.labels]
    body += nucleus / (1 + np.exp((tissue.radial - 0.22 * diameter) / 1.2))
    body *= 1 - 0.75 * np.exp(-((tissue.inside / MEMBRANE) ** 2))
    # Matrix between the cells: darker on average, but streaked and, in places, as bright as they.
    matrix = 0.30 + 0.05 * _smooth(rng, size, 0.5 * diameter) + 0.03 * fine
    matrix += 0.10 * np.maximum(_smooth(rng, size, 1.5 * diameter), 0)
    picture = np.where(cells, body, matrix)
    picture = picture + 0.04 * _smooth(rng, size, 2.0 * diameter)  # haze from other planes

    angle = rng.uniform(0, 2 * np.pi)
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = np.cos(angle) * u + np.sin(angle) * v
    falloff = 1 + light * (0.55 * slope - 0.25 * (u**2 + v**2 - 0.67))
    picture = ndimage.gaussian_filter(picture * np.maximum(falloff, 0.1), 0.6)

    # Shot noise grows with the root of the signal; the last term is the camera's own.
    scatter = noise * np.sqrt(np.maximum(picture, 0) / 0.5 + 0.05)
    picture = picture + scatter * rng.standard_normal(size)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
