"""Results on their way from the hidden folder to their places, and what a kill left behind."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from keras_unet.inference.files.claims import size_of
from keras_unet.inference.files.records import Record, read_record, write_record
from keras_unet.inference.files.workplace import LOCK, SCRATCHES, Workplace, remove


def publish(place: Workplace, stem: str, record: Record) -> None:
    """Moves an image's results to their places, and removes those of the call before.

    What somebody changed since it was written stays. Called again after a kill, it goes on.

    Args:
        record: with its results, already written.
    """
    assert record.results is not None
    place.publish(record.results)
    for name, size in record.earlier.items():
        if name not in record.results and size_of(place.output / name) == size:
            remove(place.output / name)
    place.clear(stem)
    if record.earlier:
        write_record(place.record(stem), record.model_copy(update={"earlier": {}}))


def tidy(place: Workplace, stems: Collection[str]) -> list[str]:
    """Ends what a killed call had begun to publish, and removes what nobody will go on with.

    That is: what was computed of an image that is neither among those to predict nor any longer
    where it was.

    Args:
        place: locked.
        stems: of the images to predict.

    Returns:
        The images (file names) whose unfinished results were removed.
    """
    kept, gone = {LOCK}, []
    for path in list(place.folder.glob("*.json")):
        stem, record = path.name.removesuffix(".json"), read_record(path)
        kept.add(path.name)
        if record is not None and record.results is not None:
            waiting = [name for name in record.results if (place.folder / name).exists()]
            if all(size_of(place.output / n) in (None, *record.sizes(n)) for n in waiting):
                publish(place, stem, record)
            else:  # changed by hand in between: refused, unless it may be overwritten
                kept.update(waiting)
        elif record is None or stem in stems or _there(record):
            kept.update(place.scratch(stem, what).name for what in SCRATCHES)
        else:
            if any(place.scratch(stem, what).exists() for what in SCRATCHES):
                gone.append(str(record.identity.input.get("name", stem)))
            if not record.earlier:  # else it still tells whose those results are
                kept.discard(path.name)
    for path in list(place.folder.iterdir()):
        if path.name not in kept:
            remove(path)
    return gone


def _there(record: Record) -> bool:
    return record.source is None or Path(record.source).exists()
