"""`predict` for files: images of any size, folders and stacks in; masks and overlays out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from keras_unet._version import __version__
from keras_unet.data.images import is_tiff
from keras_unet.data.zarr_windows import is_zarr
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.file_options import FileOptions
from keras_unet.inference.inputs import find_inputs, name_of, open_images
from keras_unet.inference.label_values import to_label_values as to_label_values
from keras_unet.inference.members import listed
from keras_unet.inference.options import make_options
from keras_unet.inference.records import Identity, digest, fingerprint, read_record
from keras_unet.inference.rows import MemoryWarning, Predictor
from keras_unet.inference.segmenting import Job, segment
from keras_unet.inference.workplace import Workplace
from keras_unet.models.bundle import TrainedModel, load_model


class Predictions(NamedTuple):
    """What a call of `predict_files` came to."""

    written: tuple[Path, ...]  # masks made by this call
    skipped: tuple[Path, ...]  # images whose results were there already


def predict_files(
    model: str | Path | Sequence[str | Path],
    images: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Predictions:
    """Segments image files of any size.

    For `cells.png` it writes `cells_mask.png` (the values the training labels had; 0 and 255 for
    two classes), `cells_overlay.png` and, if asked for, `cells_probabilities.tif` ([K, H, W],
    channels named by the classes) and files of the objects. For a stack, mask and probabilities
    are stacks too, [Z, H, W] and [Z, K, H, W] (or T, or both). Stacks, images with a pixel size
    and large ones give TIFF (OME-TIFF, pixel size kept; large ones in tiles), Zarr gives OME-Zarr.

    TIFF and Zarr images are read window by window and results wait on disk, so that memory grows
    with a row of tiles, not with the image. (An image compressed in a single strip is decoded
    whole.) Interrupted, the same call goes on after the last complete row of tiles, with the same
    result to the byte; images whose results are complete are skipped as long as image, models and
    options are the same. What it knows of them lies in `.predict` in the output folder. Each file
    appears under its name when it is complete.

    Args:
        model: a run folder, `.keras` file or folder of folds, or several, which are averaged.
        images: an image file, a TIFF stack, a Zarr array or OME-Zarr image, or a folder of these
            (or one that holds `images/`).
        output: folder, made if absent.
        overwrite: begin anew, whatever is there already.
        progress: called with (tiles done, tiles in all) of all files.
        say: called with one-line messages: the tile chosen and why, what is skipped or goes on.
        options: those of `FileOptions`, such as `threshold=0.4`.

    Raises:
        ConfigError: an option is unknown, out of range or does not fit the images.
        DataError: an image can't be read or does not fit the model; names the file. What was
            written for the files before it stays. Also: another process is writing there.
        OSError: the output folder can't be written, or the disk is full.
    """
    chosen = make_options(options, FileOptions)
    if "parquet" in chosen.objects:
        from keras_unet.inference.tables import require_pyarrow

        require_pyarrow()
    report = say or (lambda text: None)
    paths = find_inputs(images)
    models = [Path(path) for path in listed(model)]
    trained = [load_model(path) for path in models]
    _check(trained, chosen)
    hashes = tuple(digest(path / "best.keras" if path.is_dir() else path) for path in models)
    with Workplace(Path(output)) as place:
        jobs, skipped = [], []
        for path in paths:
            identity = Identity(
                version=__version__,
                model=hashes,
                input=fingerprint(path),
                options=chosen.identity(),
            )
            job = _job(path, identity, place, overwrite, report)
            if job is None:
                skipped.append(path)
            else:
                jobs.append(job)
        if skipped:
            report(f"{len(skipped)} of {len(paths)} done already, the same model and options")
        written = _run(jobs, trained, chosen, place, progress, report) if jobs else []
    return Predictions(tuple(written), tuple(skipped))


def _job(
    path: Path,
    identity: Identity,
    place: Workplace,
    overwrite: bool,
    say: Callable[[str], None],
) -> Job | None:
    """What is left to do for a file; None if nothing is."""
    stem = name_of(path)
    record = None if overwrite else read_record(place.record(stem))
    if record is not None:
        if changes := record.identity.changes(identity):
            say(f"{path.name}: begins anew, changed since: {', '.join(changes)}")
            record = None
        elif record.finished_in(place.output):
            return None
        elif record.results is not None:
            say(f"{path.name}: begins anew, its results were changed or removed")
            record = None
        elif not place.scratch(stem, "classes").is_file() or (
            identity.options["probabilities"] and not place.scratch(stem, "chances").is_file()
        ):
            say(f"{path.name}: begins anew, what was computed is gone")
            record = None
        else:
            where = f"row {record.row}" + (f" of image {record.page}" if record.page else "")
            say(f"{path.name}: goes on at {where}")
    if record is None:
        place.forget(stem)
    return Job(path, stem, identity, record)


def _run(
    jobs: list[Job],
    trained: list[TrainedModel],
    options: FileOptions,
    place: Workplace,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> list[Path]:
    common = Predictor(trained, options.prediction())
    plans: dict[tuple[int, int], int] = {}

    def tiles(job: Job) -> int:
        total = 0
        for size in _sizes(job.path, common.channels):
            if size not in plans:
                plans[size] = common.plan(size).tiles
            total += plans[size]
        return total

    counts = [tiles(job) for job in jobs]
    largest = max(plans, key=lambda size: size[0] * size[1])
    say(common.plan(largest).reason)
    done, total, written = 0, sum(counts), []
    for job, count in zip(jobs, counts, strict=True):
        if job.record is not None and job.record.tile is not None:
            same = options.prediction(tile=job.record.tile, batch_size=job.record.batch)
            job = job._replace(predictor=Predictor(trained, same))

        def advance(tiles: int, done: int = done) -> None:
            if progress is not None:
                progress(done + tiles, total)

        with _memory_warnings(say):
            written.append(segment(job, common, trained[0].card, options, place, advance))
        done += count
    return written


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


def _check(trained: list[TrainedModel], options: FileOptions) -> None:
    classes = len(trained[0].card.classes)
    if options.threshold is not None and classes != 2:
        raise DataError(f"a threshold needs a model of two classes, this one has {classes}")
    names = trained[0].card.classes
    if options.border is not None and options.border not in names[1:]:
        raise ConfigError(f"border is {options.border!r}; expected one of {', '.join(names[1:])}")


def _sizes(path: Path, channels: int) -> list[tuple[int, int]]:
    """Height and width of a file's images, from its header.

    Raises:
        DataError: unreadable; for TIFF and Zarr also: not as many channels as the model has.
    """
    if is_zarr(path) or is_tiff(path):
        with open_images(path, channels) as images:
            return [shape[:2] for shape in images.shapes]
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            return [picture.size[::-1]]
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error
        raise DataError(f"{path}: cannot be read as PNG or JPEG ({error})") from error
