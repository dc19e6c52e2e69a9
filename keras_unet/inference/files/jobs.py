"""Jobs of a prediction: for each file what is read, what is written and what is left to do.

All of it is decided before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from keras_unet.errors import ConfigError
from keras_unet.inference.files.disk_space import need, require_room
from keras_unet.inference.files.mask_formats import MASK_FORMATS, label_values
from keras_unet.inference.files.state import Identity, Record, Workplace
from keras_unet.inference.inputs import Header, name_of
from keras_unet.inference.objects.object_formats import OBJECT_FORMATS
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.ownership import broken, refuse_taken, require_own_names
from keras_unet.models.decoding import DECODING

if TYPE_CHECKING:
    from keras_unet.inference.predictor import Predictor
    from keras_unet.models.decoding import Decoding
    from keras_unet.models.model_card import ModelCard

_LARGE = 1 << 26  # pixels of a mask beyond which PNG, which is read whole, is no good choice
_CROWDED = 1 << 24  # of an image of objects: more may hold more of them than 16 bits number


class FileOptions(PredictOptions):
    """The options of `predict`, and these.

    probabilities: also write them, in `dtype`.
    masks: of a model that answers objects, also write the mask of classes.
    threshold: foreground where its probability is above this; for two classes only.
    split, neck, seed_distance, min_size, fill_holes, connectivity: how a model that answers objects
        finds them, see `keras_unet.models.Decoding`. None: as its card says.
    format: of the masks. "auto": Zarr for Zarr; TIFF for stacks, for images with a known pixel
        size, for more than 2**26 pixels (2**24 of objects) and for label values beyond 65,535; else
        PNG.
    overlays: draw the masks over the images, scaled down to `preview` pixels.
    preview: longest side of an overlay.
    objects: kinds of files to write of the mask's connected components; see `write_objects`. One
        image at a time is in memory for it.
    border: the class of the lines between touching objects, which these grow into.
    """

    probabilities: bool = False
    masks: bool = False
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    split: Literal["neck", "distance", "none"] | None = None
    neck: float | None = Field(None, gt=0.0, le=1.0)
    seed_distance: int | None = Field(None, ge=1)
    min_size: int | None = Field(None, ge=0)
    fill_holes: bool | None = None
    connectivity: Literal[4, 8] | None = None
    format: str = "auto"
    overlays: bool = True
    preview: int = Field(2048, ge=16)
    objects: tuple[str, ...] = ()
    border: str | None = None

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        known = ("auto", *MASK_FORMATS)
        if value not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return value

    @field_validator("objects")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in OBJECT_FORMATS]:
            raise ValueError(
                f"{', '.join(unknown)}: unknown; expected some of {', '.join(OBJECT_FORMATS)}"
            )
        if len(set(value)) != len(value):
            raise ValueError("expected each kind of file once")
        return value

    def prediction(self) -> PredictOptions:
        """The options of the prediction itself, in float32: the mask is decided before rounding."""
        values = {name: getattr(self, name) for name in PredictOptions.model_fields}
        return PredictOptions(**{**values, "dtype": "float32"})

    @property
    def finding(self) -> dict[str, Any]:
        """What is stated of how objects are found, as `decoding_of` takes it."""
        return {name: getattr(self, name) for name in DECODING}

    def identity(self) -> dict[str, Any]:
        """What a result depends on: all but how much memory and how many tiles at once."""
        found = self.model_dump(mode="json", exclude={"memory", "batch_size"})
        return found if self.probabilities else {k: v for k, v in found.items() if k != "dtype"}


class Common(NamedTuple):
    """What the files of a call have in common.

    card: of the model, or the first of several. decoding: how objects are found; None: the answer
    is classes. place: the output folder, locked. say: called with
    one-line messages.
    """

    predictor: Predictor
    card: ModelCard
    decoding: Decoding | None
    options: FileOptions
    place: Workplace
    say: Callable[[str], None]


class Start(NamedTuple):
    """Where a file's prediction begins, after the calls before.

    record: of an unfinished one that this goes on with. earlier: results of another model or other
    options that its results replace, see `Record`. note: why it begins anew, or where it goes on.
    """

    record: Record | None = None
    earlier: Mapping[str, int] = {}
    note: str = ""


@dataclass(frozen=True)
class Job:
    """A file to segment: what it holds, what is written of it, and where it begins.

    identity: what the result follows from. format: of the answer, see `MASK_FORMATS`. names: of
    the results, that of the answer first: the objects' labels or the mask. tiles: of all its
    images.
    """

    header: Header
    identity: Identity
    start: Start
    format: str
    names: tuple[str, ...]
    tiles: int

    @property
    def stem(self) -> str:
        return name_of(self.header.path)

    def begun(self) -> Record:
        """The record of a prediction that has computed nothing."""
        source = str(self.header.path.resolve())
        return Record(identity=self.identity, source=source, earlier=dict(self.start.earlier))


def where_to_start(
    path: Path, identity: Identity, record: Record | None, place: Workplace, *, overwrite: bool
) -> Start | None:
    """Where to begin with a file; None if nothing is left to do.

    Results that a person corrected are done. Those that are empty or damaged, as a power failure
    leaves them, are not.

    Args:
        record: of a call before.
    """
    if record is None:
        return Start()
    anew = Start(earlier=record.unchanged_in(place.output))
    if overwrite:
        return anew
    if changes := record.identity.changes(identity):
        return anew._replace(note=f"begins anew, changed since: {', '.join(changes)}")
    if record.results is not None:
        if record.lacking_in(place.output):
            return anew._replace(note="begins anew, its results were removed")
        changed = record.changed_in(place.output)
        faults = [(name, broken(place.output / name)) for name in changed]
        if not faults or not all(fault for _, fault in faults):
            return None
        told = ", ".join(f"{name} {fault}" for name, fault in faults)
        return anew._replace(note=f"begins anew, {told}")
    if not record.page and not record.row:
        return anew
    stem = name_of(path)
    wanted = identity.options
    needed = {"classes": True, "chances": wanted["probabilities"]}
    needed["foreground"] = wanted["diameter"] is not None or wanted["pixel_size"] is not None
    if any(used and not place.scratch(stem, what).is_file() for what, used in needed.items()):
        return anew._replace(note="begins anew, what was computed is gone")
    where = f"row {record.row}" + (f" of image {record.page}" if record.page else "")
    return anew._replace(record=record, note=f"goes on at {where}")


def make_job(header: Header, identity: Identity, start: Start, common: Common, tiles: int) -> Job:
    """The job of a file, its format and names decided.

    Raises:
        ConfigError: the format asked for can't hold the mask. DataError: zarr is needed, and not
            installed.
    """
    form = choose_format(header, common.card, common.options)
    objects = common.decoding is not None
    stem, pages = name_of(header.path), len(header.shapes)
    names = result_names(stem, pages, form, common.options, objects=objects)
    return Job(header, identity, start, form, tuple(names), tiles)


def choose_format(header: Header, card: ModelCard, options: FileOptions) -> str:
    """The format of a file's mask, a name in `MASK_FORMATS`; errors as `make_job`."""
    dtype = label_values(card.labels).dtype
    form = options.format
    if form == "auto":
        largest = max(height * width for height, width, _ in header.shapes)
        told = len(header.shapes) > 1 or header.pixel_size is not None
        most = _CROWDED if card.decoding is not None else _LARGE
        form = "tiff" if told or dtype.itemsize > 2 or largest > most else "png"
        form = "zarr" if header.path.is_dir() else form
    if what := MASK_FORMATS[form].refuses(header.shapes, dtype):
        raise ConfigError(f"{header.path}: {MASK_FORMATS[form].title} can't hold {what}")
    return form


def result_names(
    stem: str, pages: int, form: str, options: FileOptions, *, objects: bool = False
) -> list[str]:
    """The names of a file's results, that of the answer first.

    Args:
        stem: of the image. pages: how many images it holds. form: see `choose_format`. objects:
            whether objects are the answer, not classes.
    """
    kind = MASK_FORMATS[form]
    names = [f"{stem}_labels{kind.suffix}"] if objects else []
    if options.masks or not objects:
        names.append(f"{stem}_mask{kind.suffix}")
    if options.probabilities:
        names.append(f"{stem}_probabilities{MASK_FORMATS[kind.probabilities].suffix}")
    if options.overlays:
        numbers = [f"_{number:03d}" for number in range(pages)] if pages > 1 else [""]
        names += [f"{stem}{number}_overlay.png" for number in numbers]
    more = [stem + OBJECT_FORMATS[name].suffix for name in options.objects]
    return names + [name for name in more if name != names[0]]  # the labels are there already


def require_possible(
    jobs: Sequence[Job],
    done: Sequence[Path],
    records: Mapping[str, Record],
    common: Common,
    *,
    overwrite: bool,
) -> None:
    """Refuses what can't be written, for all files at once.

    Args:
        done: files that no job is for.
        records: of calls before, by the names of the images.

    Raises:
        DataError: two results of one name, or files that these would replace; names each.
        OSError: the disk has not the room.
    """
    names: dict[Path, Collection[str]] = {
        path: tuple(records[name_of(path)].results or ()) for path in done
    }
    names |= {job.header.path: job.names for job in jobs}
    wanted = {
        name: records[job.stem].sizes(name) if job.stem in records else []
        for job in jobs
        for name in job.names
    }
    require_own_names({str(path): owned for path, owned in names.items()})
    refuse_taken(common.place.output, wanted, names, overwrite=overwrite)
    require_room(common.place, {job.stem: need(job, common) for job in jobs})
