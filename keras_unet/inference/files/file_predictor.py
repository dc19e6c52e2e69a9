"""Prediction of files: images of any size, folders and stacks in; masks and overlays out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_unet._version import __version__
from keras_unet.data.pairs import beside_images
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.ensemble import Model, listed
from keras_unet.inference.files.jobs import (
    Common,
    FileOptions,
    Job,
    Start,
    make_job,
    require_possible,
    where_to_start,
)
from keras_unet.inference.files.segmentation import segment
from keras_unet.inference.files.state import (
    Identity,
    Record,
    Workplace,
    digest,
    fingerprint,
    read_records,
    tidy,
)
from keras_unet.inference.inputs import find_inputs, name_of, read_header
from keras_unet.inference.objects.object_formats import require_formats
from keras_unet.inference.ownership import read_written
from keras_unet.inference.planning import Plan
from keras_unet.inference.predictor import MemoryWarning, Predictor
from keras_unet.inference.scale import stated_line
from keras_unet.models.keras_file import (
    AS_THEY_ARE,
    Stated,
    TrainedModel,
    model_file,
    trained_model,
)
from keras_unet.models.model_card import ModelCard, decoding_of
from keras_unet.remote_path import local_path
from keras_unet.settings import validated

Say = Callable[[str], None]
Count = Callable[[int, int], None]


class Predictions(NamedTuple):
    """What a call of `predict_files` came to."""

    written: tuple[Path, ...]  # masks made by this call
    skipped: tuple[Path, ...]  # images whose results were there already


def predict_files(
    model: Model | Sequence[Model],
    images: str | Path,
    output: str | Path,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Count | None = None,
    say: Say | None = None,
    **options: Any,
) -> Predictions:
    """Segments image files of any size.

    For `cells.png` it writes `cells_overlay.png` and, by a model of instance labels,
    `cells_labels.png`: numbered objects, 0 = background, uint16 (as TIFF uint32 where there are
    more). A model of classes writes `cells_mask.png` (the values the training labels had; 0 and 255
    for two classes). If asked for, there are `cells_probabilities.tif` ([K, H, W], channels named
    by the classes), the mask of classes beside objects, and files of the objects. For a stack these
    are stacks too, [Z, H, W] and [Z, K, H, W] (or T, or both). Stacks, images with a pixel size and
    large ones give TIFF (OME-TIFF, pixel size kept; large ones in tiles), Zarr gives OME-Zarr.

    TIFF and Zarr images are read window by window and results wait on disk, so that memory grows
    with a row of tiles, not with the image, but for objects, which take about 10 bytes a pixel of
    an image. (An image compressed in a single strip is decoded
    whole.) Interrupted, the same call goes on after the last complete row of tiles, with the same
    result to the byte; images whose results are complete are skipped as long as image, models and
    options are the same. What it knows of them lies in `.predict` in the output folder. Each file
    appears under its name when it is complete.

    Args:
        model: a run folder, `.keras` file or folder of folds, or a model in memory; or several,
            which are averaged.
        images: an image file, a TIFF stack, a Zarr array or OME-Zarr image, or a folder of these
            (or one that holds `images/`).
        output: folder, made if absent.
        normalization, class_names: for a model of a script, see `keras_unet.models.trained_model`.
        overwrite: begin anew, and replace whatever has a result's name, but no input. Otherwise
            only what an earlier call left there, unchanged since, is replaced.
        progress: called with (tiles done, tiles in all) of all files.
        say: called with one-line messages: the tile chosen and why, what is skipped or goes on.
        options: those of `FileOptions`, such as `threshold=0.4`.

    Raises:
        ConfigError: an option is unknown, out of range or does not fit the images.
        DataError: an image can't be read or does not fit the model; names the file. What was
            written for the files before it stays. Or, before anything is written: results would
            replace files of yours, or each other; names all of them. Or another process is
            writing there.
        OSError: the output folder can't be written, or the disk is full.
    """
    predictor = FilePredictor(
        model, normalization=normalization, class_names=class_names, **options
    )
    return predictor(images, output, overwrite=overwrite, progress=progress, say=say)


class FilePredictor:
    """`predict_files` for several calls with the same models, which are loaded once.

        segment = FilePredictor("runs/cells", threshold=0.4)
        for folder in folders:
            segment(folder, folder / "masks")

    Arguments and errors are those of `predict_files`.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        *,
        normalization: Stated = None,
        class_names: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.options = validated(FileOptions, options)
        if self.options.objects:
            require_formats(self.options.objects)
        self._model = model
        self._normalization, self._class_names = normalization, class_names

    def load(self) -> FilePredictor:
        """Loads the models, which else the first call does."""
        _ = self._models
        return self

    def __call__(
        self,
        images: str | Path,
        output: str | Path,
        *,
        overwrite: bool = False,
        progress: Count | None = None,
        say: Say | None = None,
    ) -> Predictions:
        """Segments files; see `predict_files`."""
        say, output = say or (lambda text: None), local_path(output)
        found = find_inputs(images, say)
        self.load()
        if self._normalization is None and self.card.normalization.method == "none":
            say(AS_THEY_ARE)
        with Workplace(output) as place:
            for name in tidy(place, [name_of(path) for path in found]):
                say(f"{name}: is gone, and so is now what was computed of it")
            records = read_records(place.folder)
            starts: dict[Path, tuple[Identity, Start]] = {}
            done: list[Path] = []
            for path in _without_results(found, place, records, say):
                identity, record = self._identity(path), records.get(name_of(path))
                start = where_to_start(path, identity, record, place, overwrite=overwrite)
                if start is not None:
                    starts[path] = identity, start
                    continue
                done.append(path)
                if record is not None and record.changed_in(place.output):
                    say(f"{path.name}: its results were changed since, and are kept")
            if done:
                total = len(starts) + len(done)
                say(f"{len(done)} of {total} done already, the same model and options")
            if not starts:
                return Predictions((), tuple(done))
            decoding = decoding_of(self.card, self.options.finding)
            common = Common(self._predictor, self.card, decoding, self.options, place, say)
            if decoding is not None:
                say(f"Objects: {decoding}")
            if told := stated_line(self.options, self.card):
                say(told)
            jobs, plans = self._jobs(starts, common)
            require_possible(jobs, done, records, common, overwrite=overwrite)
            for job in jobs:
                if job.start.note:
                    say(f"{job.header.path.name}: {job.start.note}")
            if self.options.diameter != "auto":
                say(max(plans, key=lambda plan: plan.pixels).reason)
            return Predictions(tuple(_segment_all(jobs, common, progress)), tuple(done))

    def _jobs(
        self, starts: Mapping[Path, tuple[Identity, Start]], common: Common
    ) -> tuple[list[Job], list[Plan]]:
        """The jobs of files, whose headers are read, and the plans of their tiles.

        Where a scale is to be estimated, the plans are those of the images as they are.
        """
        headers = [read_header(path, self._predictor.channels) for path in starts]
        for note in beside_images({header.path: header.left_out for header in headers}):
            common.say(f"note: {note}")
        plans: dict[Any, Plan] = {}
        jobs = []
        for header in headers:
            try:
                predictor = self._predictor.stated(header.pixel_size)
            except DataError as error:
                raise DataError(f"{header.path}: {error}") from error
            tiles = 0
            for shape in header.shapes:
                key = predictor.ratio, shape[:2]
                plans[key] = plans.get(key) or predictor.plan(shape[:2])
                tiles += plans[key].tiles
            jobs.append(make_job(header, *starts[header.path], common, tiles))
        return jobs, list(plans.values())

    def _identity(self, path: Path) -> Identity:
        options = self.options.identity()
        if self._normalization is not None:
            options["normalization"] = self.card.normalization.model_dump(mode="json")
        if self._class_names is not None:
            options["class_names"] = list(self.card.classes)
        hashes, _ = self._models
        return Identity(version=__version__, model=hashes, input=fingerprint(path), options=options)

    @cached_property
    def _models(self) -> tuple[tuple[str, ...], list[TrainedModel]]:
        """A hash of each, and the models."""
        models = listed(self._model)
        if not models:
            raise ConfigError("found an empty sequence of models, expected at least one")
        # Hashed before they are loaded: a model that training replaces in between is then taken
        # for the older one, and the next call predicts again.
        hashes = tuple(_digest(one) for one in models)
        trained = [
            trained_model(one, normalization=self._normalization, class_names=self._class_names)
            for one in models
        ]
        if decoding_of(trained[0].card, self.options.finding) and self.options.border:
            raise ConfigError("border is for classes, this model answers objects; leave it out")
        _check(trained[0].card.classes, self.options)
        return hashes, trained

    @property
    def card(self) -> ModelCard:
        """Of the model, or the first of several."""
        return self._models[1][0].card

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self._models[1], self.options.prediction())


def _segment_all(jobs: Sequence[Job], common: Common, progress: Count | None) -> Iterator[Path]:
    done, total = 0, sum(job.tiles for job in jobs)
    for job in jobs:

        def advance(tiles: int, done: int = done) -> None:
            if progress is not None:
                progress(done + tiles, total)

        with _memory_warnings(common.say):
            yield segment(job, common, advance)
        done += job.tiles


def _without_results(
    paths: Sequence[Path],
    place: Workplace,
    records: Mapping[str, Record],
    say: Callable[[str], None],
) -> list[Path]:
    """The inputs that are no results of `predict` or `objects` in the same folder.

    Raises:
        DataError: all of them are.
    """
    own = set(read_written(place.output))
    for record in records.values():
        own.update(record.results or (), record.earlier)
    output = place.output.resolve()
    left = [path for path in paths if path.name not in own or path.parent.resolve() != output]
    if not left:
        raise DataError(f"{paths[0]}: is a result of `predict` itself; expected an image")
    if count := len(paths) - len(left):
        say(f"{count} files in {place.output} are results, and not taken for images")
    return left


def _digest(model: Model) -> str:
    """SHA-256 of a model's file, or of a model in memory: its layers, weights and card."""
    if isinstance(model, (str, Path)):
        return digest(model_file(model))
    network, card = trained_model(model)
    found = hashlib.sha256(network.to_json().encode())
    for weights in network.get_weights():
        found.update(np.ascontiguousarray(weights).tobytes())
    if isinstance(model, TrainedModel):  # else it is made now, and says when
        found.update(card.model_dump_json().encode())
    return found.hexdigest()


@contextmanager
def _memory_warnings(say: Callable[[str], None]) -> Iterator[None]:
    """Hands on what the predictor warns of when memory runs out."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", MemoryWarning)
        show = warnings.showwarning

        def hand_on(message: Any, category: type[Warning], *where: Any) -> None:
            if issubclass(category, MemoryWarning):
                say(str(message))
            else:
                show(message, category, *where)

        warnings.showwarning = hand_on  # type: ignore[assignment]
        yield


def _check(classes: Sequence[str], options: FileOptions) -> None:
    if options.border is not None and options.border not in classes[1:]:
        raise ConfigError(f"border is {options.border!r}; expected one of {', '.join(classes[1:])}")
