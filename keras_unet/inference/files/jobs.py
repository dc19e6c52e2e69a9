"""What a call of `predict_files` has to do, decided before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keras_unet.errors import DataError
from keras_unet.inference.files.claims import read_written, refuse_taken, require_own_names
from keras_unet.inference.files.file_options import FileOptions
from keras_unet.inference.files.inputs import Header, name_of
from keras_unet.inference.files.records import Identity, Record
from keras_unet.inference.files.results import choose_format, result_names
from keras_unet.inference.files.room import need, require_room
from keras_unet.inference.files.segmenting import Job
from keras_unet.inference.files.workplace import Workplace
from keras_unet.models.bundle import TrainedModel


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
