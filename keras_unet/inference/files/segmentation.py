"""Segmentation of one file: computed band by band, kept on disk, written when complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_unet.data.stored_pixels import NODATA
from keras_unet.data.windows import WindowedFile
from keras_unet.errors import DataError
from keras_unet.inference.files.disk_space import need, require_room
from keras_unet.inference.files.outputs import (
    FileOptions,
    Results,
    choose_format,
    label_values,
    write_results,
)
from keras_unet.inference.files.state import (
    Identity,
    Record,
    Scratch,
    Workplace,
    describe_results,
    publish,
    write_record,
)
from keras_unet.inference.inputs import open_images
from keras_unet.models.keras_file import ModelCard

if TYPE_CHECKING:
    from keras_unet.inference.predictor import Predictor


class Job(NamedTuple):
    """A file to segment, and how far an earlier run came with it.

    record: of an unfinished run that this one goes on with.
    predictor: with the tile of that run, for images of the size that it stopped in.
    earlier: results of another model or other options that these replace, see `Record`.
    note: why it begins anew, or from where it goes on.
    """

    path: Path
    stem: str
    identity: Identity
    record: Record | None = None
    predictor: Predictor | None = None
    earlier: Mapping[str, int] = {}
    note: str = ""

    def begun(self) -> Record:
        """The record of a run that has computed nothing."""
        source = str(self.path.resolve())
        return Record(identity=self.identity, source=source, earlier=dict(self.earlier))


def reset(job: Job, place: Workplace) -> None:
    """Removes what was computed of a file; whose its earlier results are stays known."""
    if job.earlier:
        write_record(place.record(job.stem), job.begun())
    else:
        place.record(job.stem).unlink(missing_ok=True)
    place.clear(job.stem)


def segment(
    job: Job,
    predictor: Predictor,
    card: ModelCard,
    options: FileOptions,
    place: Workplace,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> Path:
    """Segments a file and returns its mask; what an earlier run had computed is taken over.

    Args:
        job: what to do.
        predictor: for all files.
        card: of the model, or the first of several.
        options: see `FileOptions`.
        place: the output folder.
        progress: called with the tiles of this file that are done.
        say: called with a note where pixels were never measured.

    Raises:
        DataError: the image can't be read or does not fit; nothing is left of it. OSError: the
            disk is full; what was computed waits for the next run.
    """
    try:
        with ExitStack() as files:
            images = files.enter_context(open_images(job.path, predictor.channels))
            form = choose_format(images, card, options)
            shapes = [shape[:2] for shape in images.shapes]
            classes = files.enter_context(
                Scratch(
                    place.scratch(job.stem, "classes"),
                    [(1, *shape) for shape in shapes],
                    np.uint8 if predictor.num_classes <= 256 else np.uint16,
                )
            )
            chances = None
            if options.probabilities:
                chances = files.enter_context(
                    Scratch(
                        place.scratch(job.stem, "chances"),
                        [(predictor.num_classes, *shape) for shape in shapes],
                        options.dtype,
                    )
                )
            needed = need(images, predictor.num_classes, form, options, sum(job.earlier.values()))
            require_room(place, [needed], [job.stem])
            missing = _compute(job, images, predictor, options, place, classes, chances, progress)
            if missing:
                first = label_values(card.labels)[0]
                say(
                    f"note: {job.path}: {missing} pixels were never measured ({NODATA}): class "
                    f"{card.classes[0]}, {first} in the mask"
                )
            results = Results(
                job.stem, job.identity.model_dump_json(), images, card, classes, chances
            )
            names = write_results(results, form, options, place.folder)
    except DataError:
        reset(job, place)
        raise
    sizes = describe_results(place.folder, names)
    record = job.begun().model_copy(update={"results": sizes})
    write_record(place.record(job.stem), record)
    publish(place, job.stem, record)
    return place.output / names[0]


def _compute(
    job: Job,
    images: WindowedFile,
    predictor: Predictor,
    options: FileOptions,
    place: Workplace,
    classes: Scratch,
    chances: Scratch | None,
    progress: Callable[[int], None],
) -> int:
    """Fills the scratch files from the last row of tiles that is complete.

    Returns:
        How many pixels of what was computed now were never measured.
    """
    from keras_unet.inference.predictor import quantized, to_classes

    record = job.record or job.begun()
    before = missing = 0
    for number in range(len(images)):
        size = images.shapes[number][:2]
        one = job.predictor if job.predictor and size == record.size else predictor
        plan = one.plan(size)
        if number >= record.page:
            row = record.row if number == record.page else 0
            count = _shifted(progress, before)
            with _named(images, number):
                bands = one.bands(
                    images.page(number),
                    first_row=row - row % plan.band_height,
                    progress=count,
                )
                for band in bands:
                    given, rows = band.probabilities, band.rows
                    missing += band.missing
                    if options.threshold is None:
                        found = to_classes(given)
                    else:
                        found = given[..., -1] > options.threshold
                    classes.write(number, rows.start, found[..., None])
                    if chances is not None:
                        chances.write(number, rows.start, quantized(given, options.dtype))
                    page, row = (number, rows.stop) if rows.stop < size[0] else (number + 1, 0)
                    if page < len(images):
                        kept = job.begun().model_copy(
                            update={
                                "size": size,
                                "tile": plan.tile,
                                "batch": plan.batch,
                                "page": page,
                                "row": row,
                            }
                        )
                        _keep(place.record(job.stem), kept, classes, chances)
        before += plan.tiles
        progress(before)
    return missing


def _shifted(progress: Callable[[int], None], before: int) -> Callable[[int, int], None]:
    """Counts the tiles of one image after those of the images before it."""
    return lambda done, total: progress(before + done)


def _keep(path: Path, record: Record, classes: Scratch, chances: Scratch | None) -> None:
    """Records what is complete, once it is on the disk."""
    classes.sync()
    if chances is not None:
        chances.sync()
    write_record(path, record)


@contextmanager
def _named(images: WindowedFile, number: int) -> Iterator[None]:
    """Errors about an image name its file."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(str(images.path)):
            raise
        page = f" (image {number} of {len(images)})" if len(images) > 1 else ""
        raise DataError(f"{images.path}{page}: {error}") from error
