"""Ranking of unlabelled images: where a model is unsure, so that a person labels those first.

How sure a model is says much about how wrong it is: see docs/labelling.md for how well the order
agrees with the true errors, and for measures that were tried and left.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from keras_unet.data.pairs import shown
from keras_unet.data.stored_pixels import filled, missing_pixels
from keras_unet.disk import replacing, write_text
from keras_unet.errors import DataError
from keras_unet.evaluation.html import Html, page, tag
from keras_unet.evaluation.report import (
    Cell,
    Gallery,
    Pictures,
    layers,
    longest_side,
    marked,
    sortable,
    swatches,
)
from keras_unet.evaluation.scoring import both_classes
from keras_unet.inference.answer import objects_of
from keras_unet.inference.ensemble import Model
from keras_unet.inference.inputs import find_inputs, name_of, open_images, read_rows
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor
from keras_unet.models.decoding import Decoding
from keras_unet.models.keras_file import Stated
from keras_unet.pictures import Entry, Mark
from keras_unet.remote_path import local_path
from keras_unet.settings import validated

TABLE, PAGE = "ranking.csv", "ranking.html"
FIRST = 5  # images to label before training again
MOST_PICTURES = 100  # on a page
SPECK = 100  # pixels: so much foreground is taken to be in every image, so that none divides by 0
SURE = 0.05  # of a pixel, the chance of being wrong that is no doubt: networks leave a haze
SIDE = 16  # pixels of the thumbnails by which images are compared
GREEDY = 1000  # places that are filled one by one, each with an eye on those before
MARKS = (
    Mark(1, (240, 228, 66), 0.45, "a little unsure"),
    Mark(2, (230, 159, 0), 0.65, "unsure"),
    Mark(3, (213, 94, 0), 0.85, "could be either"),
)
STEPS = (0.1, 0.4, 0.7)  # of the doubt that is possible, from which a mark stands


class RankedImage(NamedTuple):
    """One image of a ranking.

    place: from 1 on; label those first. name: of the file, with the page behind it for a stack
    ("stack:003"). uncertainty: 0 (sure) … 1. novelty: 0 (like an image placed before it) … 1; the
    place is by uncertainty · novelty. foreground: share of the pixels that are predicted as such.
    objects: how many were found; None for a model of classes.
    """

    place: int
    name: str
    uncertainty: float
    novelty: float
    foreground: float
    objects: int | None


class Doubt(NamedTuple):
    """What a prediction leaves open.

    wrong: float32 [H, W], the chance that the most probable class is not the true one, by the
    network's own probabilities. uncertainty, foreground, objects: as of `RankedImage`.
    """

    wrong: np.ndarray
    uncertainty: float
    foreground: float
    objects: int | None


def rank(
    model: Model | Sequence[Model],
    images: str | Path | Mapping[str, np.ndarray],
    *,
    normalization: Stated = None,
    output: str | Path | None = None,
    prediction: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[RankedImage]:
    """Orders unlabelled images by how much labelling them may teach a model.

        for image in keras_unet.rank("runs/nuclei", "unlabelled")[:5]:
            print(image.name, image.uncertainty)

    Images on which the model is unsure come first (see `doubt`). Of images that look alike, as
    neighbours in a stack, one comes early and the others late: each next place is given by
    uncertainty times novelty, and novelty is 1 − the highest correlation with an image placed
    before, both shrunk to 16 × 16 pixels. One image at a time is in memory.

    Args:
        model, normalization: as for `keras_unet.predict`.
        images: what `keras-unet predict` takes (an image, a stack, a folder), or arrays [H, W] or
            [H, W, C] by name.
        output: a folder for `ranking.csv`, a line an image, and `ranking.html`, pictures of where
            the model is unsure; None writes nothing.
        prediction: options of `keras_unet.inference.PredictOptions`, such as {"tile": 572}.
        progress: called with (images done, images in all).

    Returns:
        Every image once, in the order in which to label them.

    Raises:
        DataError: there is no image, or one that cannot be read or does not fit the model.
        ConfigError: an option is unknown, out of range or does not fit the model.
    """
    options = validated(PredictOptions, {**(prediction or {}), "dtype": "float32"})
    predictor = Predictor(model, options, normalization)
    folder = None if output is None else local_path(output)
    found = _Found(images, predictor.channels)
    gallery, side = Gallery(MOST_PICTURES), longest_side(min(len(found), MOST_PICTURES))
    names, doubts, features = [], [], []
    for done, (name, image) in enumerate(found, start=1):
        try:
            seen = doubt(predictor(image), predictor.cards[0].decoding)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        whole = filled(image, missing_pixels(image))
        names.append(name)
        doubts.append(seen._replace(wrong=np.empty(0)))  # what is small is kept
        features.append(_feature(whole))
        if folder is not None:
            marks = _marks(seen.wrong, max(predictor.num_classes, 2))
            gallery.add(name, seen.uncertainty, marked(whole, marks, MARKS, side))
        if progress is not None:
            progress(done, len(found))
    order, novelty = _order(np.array([one.uncertainty for one in doubts]), np.stack(features))
    ranked = [
        RankedImage(place, names[i], d.uncertainty, float(novelty[i]), d.foreground, d.objects)
        for place, i in enumerate(order, start=1)
        for d in [doubts[i]]
    ]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_table(ranked, folder / TABLE)
        title = f"What to label next for {predictor.cards[0].name}"
        write_text(folder / PAGE, _page(title, ranked, gallery.pictures()))
    return ranked


def doubt(probabilities: np.ndarray, decoding: Decoding | None = None) -> Doubt:
    """How unsure a prediction is, from 0 to 1.

    The pixels that the network itself expects to be wrong are Σ (1 − p of the most probable class);
    beside those that are foreground they are a share that neither the image's size nor its empty
    background changes: E / (E + F + 100 px). A chance below 0.05 is left out: where there is
    nothing, short trainings leave a haze of it, which would count for more than all outlines.

    Of a model of objects it is the mean of this and of 1 − p in the objects, each of which counts
    once: large ones hide it when small ones are doubtful.

    Args:
        probabilities: float [H, W, K], background first; or [H, W, 1], of the foreground.
        decoding: how objects are found; None: the model is one of classes.

    Raises:
        DataError: probabilities are not finite.
    """
    given = both_classes(probabilities)
    if not np.isfinite(given).all():
        raise DataError("the model answers numbers that are not finite")
    wrong = 1 - given.max(axis=-1)
    inside = given.argmax(axis=-1) > 0
    expected = float(wrong[wrong > SURE].sum(dtype=np.float64))
    uncertainty = expected / (expected + np.count_nonzero(inside) + SPECK)
    count = None
    if decoding is not None:
        objects = objects_of(probabilities, decoding)
        count = int(objects.max(initial=0))
        unsure = ndimage.mean(given[..., 0], objects, np.arange(1, count + 1))
        uncertainty = (uncertainty + (float(np.mean(unsure)) if count else 0.0)) / 2
    return Doubt(wrong, float(uncertainty), float(inside.mean()), count)


class _Found:
    """The images by name, read anew in each loop over them."""

    def __init__(self, images: str | Path | Mapping[str, np.ndarray], channels: int) -> None:
        self._channels = channels
        self._arrays = dict(images) if isinstance(images, Mapping) else {}
        self._files: list[tuple[Path, int]] = []
        if not isinstance(images, Mapping):
            for path in find_inputs(images):
                with open_images(path, channels) as pages:
                    self._files.append((path, len(pages)))
        if not len(self):
            raise DataError("found no image to rank, expected one or more")

    def __len__(self) -> int:
        return len(self._arrays) + sum(pages for _, pages in self._files)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and [H, W, C]; float32 with NaN where pixels were never measured."""
        for name, given in self._arrays.items():
            image = np.asarray(given)
            yield name, image[..., None] if image.ndim == 2 else image
        for path, pages in self._files:
            with open_images(path, self._channels) as images:
                for number in range(pages):
                    source = images.page(number)
                    file = Path(name_of(path) if path.is_dir() else path.name)
                    page = number if pages > 1 else None
                    yield shown(file, page), read_rows(source, 0, source.shape[0])


def _feature(image: np.ndarray) -> np.ndarray:
    """A thumbnail [SIDE²] of mean 0 and length 1: the product of two is their correlation."""
    grey = image.mean(axis=-1, dtype=np.float64).astype(np.float32)
    small = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX))
    centred = (small - small.mean()).ravel()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def _order(uncertainty: np.ndarray, features: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Which image has each place, and the novelty of each image when it got its place."""
    novelty = np.ones(len(uncertainty))
    left = np.ones(len(uncertainty), bool)
    order: list[int] = []
    while left.any() and len(order) < GREEDY:
        best = int(np.argmax(np.where(left, uncertainty * novelty, -1)))
        order.append(best)
        left[best] = False
        alike = np.clip(features @ features[best], 0, 1)
        novelty[left] = np.minimum(novelty, 1 - alike)[left]
    rest = np.flatnonzero(left)
    value = (uncertainty * novelty)[rest]
    return order + rest[np.argsort(-value, kind="stable")].tolist(), novelty


def _marks(wrong: np.ndarray, classes: int) -> np.ndarray:
    """Which of `MARKS` each pixel has: uint8 [H, W]."""
    share = wrong / (1 - 1 / classes)
    return np.searchsorted(STEPS, share, side="right").astype(np.uint8)


def _write_table(ranked: Sequence[RankedImage], path: Path) -> None:
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(RankedImage._fields)
        for one in ranked:
            name = one.name.encode(errors="backslashreplace").decode()
            numbers = (f"{x:.4f}" for x in (one.uncertainty, one.novelty, one.foreground))
            writer.writerow([one.place, name, *numbers, "" if one.objects is None else one.objects])


def _page(title: str, ranked: Sequence[RankedImage], pictures: Pictures) -> str:
    drawn = [one for one in ranked if one.name in pictures]
    counted = any(one.objects is not None for one in ranked)
    columns = [("image", "ascending"), ("place", "ascending"), ("uncertainty", "descending")]
    columns += [("novelty", "descending"), ("foreground", "descending")]
    columns += [("objects", "descending")] if counted else []
    rows = {}
    for one in ranked:
        link = tag("a", one.name, href=f"#place-{one.place}") if one.name in pictures else one.name
        rows[one.name] = [
            Cell(link, one.name),
            Cell(one.place, one.place),
            Cell(f"{one.uncertainty:.3f}", one.uncertainty),
            Cell(f"{one.novelty:.2f}", one.novelty),
            Cell(f"{one.foreground:.1%}", one.foreground),
            *([Cell(one.objects, one.objects or 0)] if counted else []),
        ]
    missing = len(ranked) - len(drawn)
    hint = f" Pictures: the {len(drawn)} on which it is least sure." if missing else ""
    switch = tag("input", type="checkbox", id="errors", checked=True)
    return page(
        title,
        tag("h1", title),
        tag("p", f"{len(ranked)} image{'s' * (len(ranked) != 1)}", class_="soft"),
        tag(
            "p",
            "Label the first few, add them to the training images, train again and rank the rest "
            "anew. The order is by uncertainty × novelty: how unsure the model is, and how unlike "
            "the image is to those above it.",
        ),
        sortable(columns, rows, caption="Ranking of the images", gallery="gallery"),
        tag(
            "p", f"A click on a title sorts, a click on a picture enlarges it.{hint}", class_="soft"
        ),
        tag("p", tag("label", switch, "show where the model is unsure", class_="switch")),
        swatches([Entry(mark.color, mark.text) for mark in MARKS]),
        tag("div", [_figure(one, pictures) for one in drawn], class_="gallery", id="gallery"),
    )


def _figure(one: RankedImage, pictures: Pictures) -> Html:
    text = f" · place {one.place} · uncertainty {one.uncertainty:.3f} · novelty {one.novelty:.2f}"
    return tag(
        "figure",
        layers(pictures[one.name], one.name, "where the model is unsure"),
        tag("figcaption", tag("b", one.name), text),
        id=f"place-{one.place}",
        data_image=one.name,
    )
