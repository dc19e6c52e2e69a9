"""Prediction of files: images of any size, folders and stacks in; masks and overlays out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_unet._version import __version__
from keras_unet.data.pairs import beside_images
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.ensemble import Model, listed
from keras_unet.inference.files.disk_space import need, require_room
from keras_unet.inference.files.outputs import FileOptions, choose_format, result_names
from keras_unet.inference.files.segmentation import Job, reset, segment
from keras_unet.inference.files.state import (
    Identity,
    Record,
    Workplace,
    digest,
    fingerprint,
    read_records,
    tidy,
)
from keras_unet.inference.inputs import Header, find_inputs, name_of, read_header
from keras_unet.inference.options import make_options
from keras_unet.inference.ownership import read_written, refuse_taken, require_own_names
from keras_unet.inference.predictor import MemoryWarning, Predictor
from keras_unet.models.keras_file import (
    AS_THEY_ARE,
    Stated,
    TrainedModel,
    model_file,
    trained_model,
)
from keras_unet.remote_path import local_path


def without_results(
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


def make_job(
    path: Path, identity: Identity, record: Record | None, place: Workplace, overwrite: bool
) -> Job | None:
    """What is left to do for a file; None if nothing is. Results that a person corrected are done.

    Args:
        record: of a call before.
    """
    stem = name_of(path)
    earlier = {} if record is None else record.unchanged_in(place.output)
    anew = Job(path, stem, identity, earlier=earlier)
    if record is None or overwrite:
        return anew
    if changes := record.identity.changes(identity):
        return anew._replace(note=f"begins anew, changed since: {', '.join(changes)}")
    if record.finished_in(place.output) or record.corrected_in(place.output):
        return None
    if record.results is not None:
        return anew._replace(note="begins anew, its results were removed")
    if not record.page and not record.row:
        return anew
    if not place.scratch(stem, "classes").is_file() or (
        identity.options["probabilities"] and not place.scratch(stem, "chances").is_file()
    ):
        return anew._replace(note="begins anew, what was computed is gone")
    where = f"row {record.row}" + (f" of image {record.page}" if record.page else "")
    return anew._replace(record=record, note=f"goes on at {where}")


def require_possible(
    jobs: Sequence[Job],
    headers: Sequence[Header],
    done: Sequence[Path],
    records: Mapping[str, Record],
    place: Workplace,
    trained: TrainedModel,
    options: FileOptions,
    overwrite: bool,
) -> None:
    """Refuses what can't be written, for all files at once.

    Args:
        headers: of the files of `jobs`.
        done: the other files.
        records: of calls before, by the names of the images.
        trained: the model, or the first of several.

    Raises:
        ConfigError: a format that can't hold a mask.
        DataError: two results of one name, or files that these would replace; names each.
        OSError: the disk has not the room.
    """
    classes = trained.network.output_shape[-1]
    names = {path: [*(records[name_of(path)].results or ())] for path in done}
    wanted: dict[str, list[int]] = {}
    needs = []
    for job, header in zip(jobs, headers, strict=True):
        form = choose_format(header, trained.card, options)
        names[job.path] = result_names(job.stem, len(header.shapes), form, options)
        record = records.get(job.stem)
        wanted |= {name: record.sizes(name) if record else [] for name in names[job.path]}
        needs.append(need(header, classes, form, options, sum(job.earlier.values())))
    require_own_names({str(path): owned for path, owned in names.items()})
    refuse_taken(place.output, wanted, names, overwrite=overwrite)
    require_room(place, needs, [job.stem for job in jobs])


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
    chosen = make_options(options, FileOptions)
    if "parquet" in chosen.objects:
        from keras_unet.inference.objects.object_formats import require_pyarrow

        require_pyarrow()
    report, folder = say or (lambda text: None), local_path(output)
    found = find_inputs(images, report)
    models = listed(model)
    if not models:
        raise ConfigError("found an empty sequence of models, expected at least one")
    # Hashed before they are loaded: a model that training replaces in between is then taken for
    # the older one, and the next call predicts again.
    hashes = tuple(_digest(one) for one in models)
    trained = [
        trained_model(one, normalization=normalization, class_names=class_names) for one in models
    ]
    _check(trained, chosen)
    stated = chosen.identity()
    if normalization is None and trained[0].card.normalization.method == "none":
        report(AS_THEY_ARE)
    if normalization is not None:
        stated["normalization"] = trained[0].card.normalization.model_dump(mode="json")
    if class_names is not None:
        stated["class_names"] = list(trained[0].card.classes)
    with Workplace(folder) as place:
        for name in tidy(place, [name_of(path) for path in found]):
            report(f"{name}: is gone, and so is now what was computed of it")
        records = read_records(place.folder)
        jobs: list[Job] = []
        skipped: list[Path] = []
        for path in without_results(found, place, records, report):
            identity = Identity(
                version=__version__,
                model=hashes,
                input=fingerprint(path),
                options=stated,
            )
            record = records.get(name_of(path))
            job = make_job(path, identity, record, place, overwrite)
            if job is not None:
                jobs.append(job)
                continue
            skipped.append(path)
            if record is not None and record.corrected_in(place.output):
                report(f"{path.name}: its results were changed since, and are kept")
        if skipped:
            report(
                f"{len(skipped)} of {len(jobs) + len(skipped)} done already, the same model and "
                "options"
            )
        written = []
        if jobs:
            common = Predictor(trained, chosen.prediction())
            headers = [read_header(job.path, common.channels) for job in jobs]
            for note in beside_images({header.path: header.left_out for header in headers}):
                report(f"note: {note}")
            require_possible(jobs, headers, skipped, records, place, trained[0], chosen, overwrite)
            written = _run(jobs, headers, common, trained, chosen, place, progress, report)
    return Predictions(tuple(written), tuple(skipped))


def _run(
    jobs: list[Job],
    headers: list[Header],
    common: Predictor,
    trained: list[TrainedModel],
    options: FileOptions,
    place: Workplace,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> list[Path]:
    plans: dict[tuple[int, int], int] = {}
    counts = []
    for header in headers:
        sizes = [shape[:2] for shape in header.shapes]
        plans |= {size: common.plan(size).tiles for size in set(sizes) - set(plans)}
        counts.append(sum(plans[size] for size in sizes))
    for job in jobs:
        if job.note:
            say(f"{job.path.name}: {job.note}")
    largest = max(plans, key=lambda size: size[0] * size[1])
    say(common.plan(largest).reason)
    done, total, written = 0, sum(counts), []
    for job, count in zip(jobs, counts, strict=True):
        if job.record is None:
            reset(job, place)
        elif job.record.tile is not None:
            same = options.prediction(tile=job.record.tile, batch_size=job.record.batch)
            job = job._replace(predictor=Predictor(trained, same))

        def advance(tiles: int, done: int = done) -> None:
            if progress is not None:
                progress(done + tiles, total)

        with _memory_warnings(say):
            written.append(segment(job, common, trained[0].card, options, place, advance, say))
        done += count
    return written


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


def _check(trained: list[TrainedModel], options: FileOptions) -> None:
    classes = len(trained[0].card.classes)
    if options.threshold is not None and classes != 2:
        raise DataError(f"a threshold needs a model of two classes, this one has {classes}")
    names = trained[0].card.classes
    if options.border is not None and options.border not in names[1:]:
        raise ConfigError(f"border is {options.border!r}; expected one of {', '.join(names[1:])}")
