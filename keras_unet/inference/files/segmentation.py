"""Segmentation of one file: computed band by band, kept on disk, written when it is complete.

The results are masks, probabilities, overlays and files of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from keras_unet.data.stored_pixels import NODATA, WindowedFile, filled
from keras_unet.disk import remove
from keras_unet.errors import DataError
from keras_unet.inference.files.disk_space import need, require_room
from keras_unet.inference.files.jobs import Common, FileOptions, Job
from keras_unet.inference.files.mask_formats import MASK_FORMATS, MaskFormat, Sheet, label_values
from keras_unet.inference.files.state import Scratch, publish, synced_sizes, write_record
from keras_unet.inference.inputs import Source, missing_of, open_images
from keras_unet.inference.objects.object_formats import OBJECT_FORMATS
from keras_unet.inference.predictor import Band, Predictor, quantized, to_classes
from keras_unet.inference.scale import NATIVE, Ratio, objects_at
from keras_unet.pictures import (
    Entry,
    class_entries,
    object_entries,
    object_overlay,
    overlay,
    save_png,
)

_STRIP_BYTES = 1 << 26  # of an image, as much is read at a time for its overlay


def segment(job: Job, common: Common, progress: Callable[[int], None]) -> Path:
    """Segments a file and returns its labels or mask; goes on where an earlier call stopped.

    Args:
        progress: called with the tiles of this file that are done.

    Raises:
        DataError: the image can't be read or does not fit; nothing is left of it. OSError: the
            disk is full; what was computed waits for the next call.
    """
    place = common.place
    if job.start.record is None:
        reset(job, common)
    try:
        with open_images(job.header.path, common.predictor.channels) as images:
            if [shape[:2] for shape in images.shapes] != [one[:2] for one in job.header.shapes]:
                raise DataError(f"{images.path}: was changed while it was read; predict it again")
            with Planes(job, common) as planes:
                require_room(place, {job.stem: need(job, common)})
                predictor = _fitted(job, common, images)
                missing = _compute(job, common, predictor, images, planes, progress)
                if missing:
                    first = label_values(common.card.labels)[0]
                    common.say(
                        f"note: {images.path}: {missing} pixels were never measured ({NODATA}): "
                        f"class {common.card.classes[0]}, {first} in the mask"
                    )
                write_results(job, common, images, planes, predictor.ratio)
    except DataError:
        reset(job, common)
        raise
    sizes = synced_sizes(place.folder, job.names)
    record = job.begun().model_copy(update={"results": sizes})
    write_record(place.record(job.stem), record)
    publish(place, job.stem, record)
    return place.output / job.names[0]


def reset(job: Job, common: Common) -> None:
    """Removes what was computed of a file; whose its earlier results are stays known."""
    record = common.place.record(job.stem)
    if job.start.earlier:
        write_record(record, job.begun())
    else:
        record.unlink(missing_ok=True)
    common.place.clear(job.stem)


class Planes(AbstractContextManager["Planes"]):
    """What is computed of a file, on disk: class numbers, and probabilities if they are written."""

    def __init__(self, job: Job, common: Common) -> None:
        count, options = common.predictor.num_classes, common.options
        shapes = [shape[:2] for shape in job.header.shapes]
        self.classes = Scratch(
            common.place.scratch(job.stem, "classes"),
            [(1, *shape) for shape in shapes],
            np.uint8 if count <= 256 else np.uint16,
        )
        self._threshold = options.threshold
        self.labels: Scratch | None = None  # filled when a file's probabilities are complete
        if common.decoding is not None:
            self._threshold = common.decoding.threshold
            labels = common.place.scratch(job.stem, "labels")
            self.labels = Scratch(labels, [(1, *shape) for shape in shapes], np.uint32)
        self.foreground: Scratch | None = None  # its probability, where objects are found anew
        if options.rescales:
            foreground = common.place.scratch(job.stem, "foreground")
            self.foreground = Scratch(foreground, [(1, *shape) for shape in shapes], np.float32)
        self.chances: Scratch | None = None
        if options.probabilities:
            chances = common.place.scratch(job.stem, "chances")
            self.chances = Scratch(chances, [(count, *shape) for shape in shapes], options.dtype)

    def write(self, page: int, band: Band, options: FileOptions) -> None:
        """Puts a band of a page to its place."""
        given, row = band.probabilities, band.rows.start
        threshold = self._threshold
        found = to_classes(given) if threshold is None else given[..., -1] > threshold
        self.classes.write(page, row, found[..., None])
        if self.foreground is not None:
            self.foreground.write(page, row, given[..., -1:])
        if self.chances is not None:
            self.chances.write(page, row, quantized(given, options.dtype))

    def sync(self) -> None:
        """Returns when what was written has reached the disk."""
        for scratch in self._all():
            scratch.sync()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for scratch in self._all():
            scratch.close()

    def _all(self) -> list[Scratch]:
        every = (self.classes, self.chances, self.foreground, self.labels)
        return [scratch for scratch in every if scratch is not None]


def _fitted(job: Job, common: Common, images: WindowedFile) -> Predictor:
    """The predictor at the scale for a file: what a stopped call found, or else found now."""
    record = job.start.record
    if record is not None and record.ratio is not None:
        return common.predictor.at(record.ratio)
    if common.options.diameter != "auto":
        return common.predictor.stated(images.pixel_size)
    pages = [images.page(number) for number in range(len(images))]

    def say(text: str) -> None:
        common.say(f"{images.path.name}: {text}")

    with _named(images):
        return common.predictor.fitted(pages, images.pixel_size, say)


def _compute(
    job: Job,
    common: Common,
    fitted: Predictor,
    images: WindowedFile,
    planes: Planes,
    progress: Callable[[int], None],
) -> int:
    """Fills the planes from the last row of tiles that is complete.

    Returns:
        How many pixels of what was computed now were never measured.
    """
    options = common.options
    begun = job.begun()
    record = job.start.record or begun
    again = None  # predicts as the stopped call did: memory may have changed since
    if record.tile is not None:
        again = fitted.with_tiles(record.tile, record.batch)
    before = missing = 0
    total = sum(fitted.plan(shape[:2]).tiles for shape in images.shapes)
    share = job.tiles / total  # not 1 where the scale was found only now
    for number, shape in enumerate(images.shapes):
        size = shape[:2]
        predictor = again if again is not None and size == record.size else fitted
        plan = predictor.plan(size)
        if number >= record.page:
            row = record.row if number == record.page else 0
            with _named(images, number):
                bands = predictor.bands(
                    images.page(number),
                    first_row=row - row % plan.band_height,
                    progress=_shifted(progress, before, share),
                )
                for band in bands:
                    missing += band.missing
                    planes.write(number, band, options)
                    stop = band.rows.stop
                    page, row = (number, stop) if stop < size[0] else (number + 1, 0)
                    if page < len(images):
                        planes.sync()
                        made = {"size": size, "tile": plan.tile, "batch": plan.batch}
                        made |= {"ratio": tuple(fitted.ratio), "page": page, "row": row}
                        kept = begun.model_copy(update=made)
                        write_record(common.place.record(job.stem), kept)
        before += plan.tiles
        progress(round(before * share))
    return missing


def _shifted(
    progress: Callable[[int], None], before: int, share: float
) -> Callable[[int, int], None]:
    """Counts the tiles of one image after those of the images before it."""
    return lambda done, total: progress(round((before + done) * share))


@contextmanager
def _named(images: WindowedFile, number: int | None = None) -> Iterator[None]:
    """Errors about an image name its file."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(str(images.path)):
            raise
        several = number is not None and len(images) > 1
        page = f" (image {number} of {len(images)})" if several else ""
        raise DataError(f"{images.path}{page}: {error}") from error


def write_results(
    job: Job, common: Common, images: WindowedFile, planes: Planes, ratio: Ratio = NATIVE
) -> None:
    """Writes all results of a file into the hidden folder, under the job's names.

    Args:
        ratio: at which the network saw its images.
    """
    card, options, folder = common.card, common.options, common.place.folder
    kind, names = MASK_FORMATS[job.format], list(job.names)
    values = label_values(card.labels)
    mask = Sheet(
        planes.classes,
        dtype=values.dtype,
        values=values.__getitem__,
        axes=images.axes,
        channels=(),
        pixel_size=images.pixel_size,
        name=job.stem,
        key=f"mask {job.identity.model_dump_json()}",
        classes=dict(zip(values.tolist(), card.classes, strict=False)),
    )
    if planes.labels is not None:
        labels = _labels(job, common, planes, planes.labels, mask, ratio)
        _save(folder / names.pop(0), labels, kind)
    if options.masks or planes.labels is None:
        _save(folder / names.pop(0), mask, kind)
    if planes.chances is not None:
        count = planes.chances.shapes[0][0]
        chances = mask._replace(
            scratch=planes.chances,
            dtype=planes.chances.dtype,
            values=None,
            channels=card.classes[-count:],
            key=f"probabilities {job.identity.model_dump_json()}",
            classes=None,
        )
        _save(folder / names.pop(0), chances, MASK_FORMATS[kind.probabilities])
    if options.overlays:
        for number, name in enumerate(names[: len(images)]):
            drawn = preview(images.page(number), planes, number, card.classes, options.preview)
            save_png(folder / name, *drawn)
    if options.objects:
        _write_objects(job, common, images, planes)


def _labels(
    job: Job, common: Common, planes: Planes, labels: Scratch, like: Sheet, ratio: Ratio
) -> Sheet:
    """Finds the objects of each page, a whole one in memory, and how they are to be written.

    Raises:
        DataError: more objects than the format holds.
    """
    assert common.decoding is not None
    most = 0
    for page, (_, height, _) in enumerate(labels.shapes):
        if planes.foreground is not None:
            foreground = planes.foreground.read(page, 0, slice(0, height))
        else:
            foreground = planes.classes.read(page, 0, slice(0, height)) > 0
        found = objects_at(foreground, common.decoding, ratio)
        most = max(most, int(found.max(initial=0)))
        labels.write(page, 0, found[..., None])
    dtype = np.dtype(np.uint16 if most <= np.iinfo(np.uint16).max else np.uint32)
    if what := MASK_FORMATS[job.format].refuses(job.header.shapes, dtype):
        title = MASK_FORMATS[job.format].title
        raise DataError(f"{job.header.path}: {most} objects; {title} can't hold {what}")
    return like._replace(
        scratch=labels,
        dtype=dtype,
        values=None,
        key=f"labels {job.identity.model_dump_json()}",
        classes=None,
    )


def _save(path: Path, sheet: Sheet, kind: MaskFormat) -> None:
    remove(path)  # of a call that was killed here
    kind.write(path, sheet)


def preview(
    source: Source, planes: Planes, page: int, names: Sequence[str], longest: int = 2048
) -> tuple[np.ndarray, list[Entry]]:
    """The answer over its image, scaled down by a whole number, uint8 [h, w, 3], and its legend.

    The image is averaged over squares; of the answer every so many-th pixel is taken.

    Args:
        source: the image.
        planes: objects, or class numbers, one plane a page.
        page: of the image.
        names: of the classes.
        longest: pixels of the longer side at most.
    """
    height, width, channels = source.shape
    step = min(-(-max(height, width) // longest), height, width)
    h, w = height // step, width // step
    exact = step == 1 or source.dtype.kind in "iu"  # 8-bit RGB stays what it is
    image = np.empty((h, w, channels), source.dtype if exact else np.float32)
    rows = max(1, _STRIP_BYTES // (width * channels * 4 * step))
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        window = slice(top * step, bottom * step), slice(0, w * step)
        strip = source.read(*window)
        strip = filled(strip, missing_of(source, *window, strip))
        if step > 1:
            squares = strip.reshape(bottom - top, step, w, step, channels)
            strip = squares.mean((1, 3), dtype=np.float32)
        image[top:bottom] = strip
    if planes.labels is not None:
        labels = planes.labels.read(page, 0, slice(0, h * step), step)[:, :w].astype(np.int32)
        count = int(planes.labels.read(page, 0, slice(0, height)).max(initial=0))
        return object_overlay(image, labels), object_entries(count)
    mask = planes.classes.read(page, 0, slice(0, h * step), step)[:, :w]
    return overlay(image, mask.astype(np.int32)), class_entries(mask, names)


def _write_objects(job: Job, common: Common, images: WindowedFile, planes: Planes) -> None:
    """The objects, or the connected components of each class, see `ObjectWriter`.

    One whole image is in memory.
    """
    from keras_unet.inference.objects.finding import to_objects
    from keras_unet.inference.objects.object_writer import ObjectWriter

    options, classes = common.options, common.card.classes
    border = None if options.border is None else classes.index(options.border)
    writer = ObjectWriter(
        common.place.folder,
        job.stem,
        pixel_size=images.pixel_size,
        formats=[
            name
            for name in options.objects
            if job.stem + OBJECT_FORMATS[name].suffix != job.names[0]
        ],
        stack=len(images) > 1,
    )
    with writer:
        for number, (height, width, _) in enumerate(images.shapes):
            page, window = images.page(number), (slice(0, height), slice(0, width))
            image = page.read(*window)
            image = filled(image, page.missing(*window, image))
            if planes.labels is not None:
                instances = planes.labels.read(number, 0, slice(0, height)).astype(np.int32)
                kinds = dict.fromkeys(range(1, int(instances.max(initial=0)) + 1), 1)
            else:
                mask = planes.classes.read(number, 0, slice(0, height))
                instances, kinds = to_objects(mask, border=border)
            writer.add(instances, image, {label: classes[kind] for label, kind in kinds.items()})
