"""Pairs of an image and its labels, by name in folders, by page in stacks; files of records."""

from __future__ import annotations

import gzip
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from keras_unet.data.class_names import CLASSES_FILE
from keras_unet.data.images import EXTENSIONS, count_pages
from keras_unet.errors import DataError, listed
from keras_unet.remote_path import local_path
from keras_unet.settings import Frozen

GZIP = b"\x1f\x8b"  # a compressed file begins so
_RECORD_HEADER = 12  # bytes before a record: its length and the checksum of that
NAMED = 8  # of what is left out, so many are named
# images that are not read: named before other files
_OTHER_KINDS = re.compile(
    r"\.("
    r"bmp|gif|webp|jp2|j2k|jpx|jxl|jxr|avif|heic|heif|tga|ppm|pgm|pnm|exr|"
    r"hdr|fits|fit|dcm|nii|mha|mhd|nrrd|mrc|npy|npz|h5|hdf5|ims|czi|lif|nd2|"
    r"nd|oib|oif|vsi|lsm|stk|svs|scn|ndpi|mrxs|bif|qptiff|btf|tf8|raw|dng|"
    r"cr2|nef|arw|psd|svg|pdf|zip"
    r")",
    re.IGNORECASE,
)


class Problem(Frozen):
    """One thing that must be mended before training."""

    file: str  # a path, "stack.tif:003", or "" for the set as a whole
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        return f"{where}{self.found}" + (f"; expected {self.expected}" if self.expected else "")


def shown(path: Path | None, page: int | None = None) -> str:
    """A file, and the page in it, the way that messages name it: counted from 0."""
    return f"{path}" if page is None else f"{path}:{page:03d}"


@dataclass(frozen=True)
class Pair:
    """An image and its labels, if any; pages count from 0, None is the only one of its file."""

    name: str  # the stem, with the page behind it for stacks: "stack:003"
    image: Path
    label: Path | None = None
    image_page: int | None = None
    label_page: int | None = None
    group: str = ""  # pairs of one group (animal, plate …) belong in one split

    @property
    def image_shown(self) -> str:
        """The image the way that messages name it."""
        return shown(self.image, self.image_page)

    @property
    def label_shown(self) -> str:
        """The labels the way that messages name them."""
        return shown(self.label, self.label_page)


@dataclass(frozen=True)
class Pairs(Sequence[Pair]):
    """The pairs in natural order, and what stands in the way of others: for `check_data`."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


@dataclass(frozen=True)
class Matched:
    """Image files and the label files that belong to them, none of them opened yet."""

    files: tuple[tuple[Path, Path | None], ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Records:
    """The files of a data set, in natural order; reading them shows whether they are whole."""

    files: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


Source = Pairs | Records


def find_source(images: str | Path, labels: str | Path | None = None) -> Source:
    """The records where `images` is such, if there are any; else `find_pairs`.

    Raises:
      DataError: see `find_pairs`; also records with labels beside them.
    """
    records = find_records(images)
    if records is None:
        return find_pairs(images, labels)
    if labels is not None:
        raise DataError(
            f"{images}: records hold their labels; expected no labels beside ({labels})"
        )
    return records


def find_pairs(images: str | Path, labels: str | Path | None = None) -> Pairs:
    """Finds the images, and the labels that belong to them.

    Args:
      images: a folder that holds `images/` and, unless only predicting, `labels/`; or a folder of
        images; or one image or TIFF stack.
      labels: the folder of labels with equal stems, or the stack with as many pages. None: the
        `labels/` folder beside `images/` if there is one; otherwise the pairs have no labels.

    Missing partners, doubled names and unequal page counts are collected in `problems`, not
    raised. Hidden files, folders and other kinds of files are left out, and named in `notes`.

    Raises:
      DataError: a path does not exist, no image in it, or a folder paired with a file.
    """
    matched = match_files(images, labels)
    pairs: list[Pair] = []
    problems = list(matched.problems)
    for image, label in matched.files:
        found, wrong = pairs_of_files(image, label)
        pairs += found
        problems += wrong
    return Pairs(tuple(pairs), tuple(problems), matched.notes)


def match_files(
    images: str | Path, labels: str | Path | None = None, *, skip: Collection[Path] = ()
) -> Matched:
    """The files of `find_pairs`, by their names alone. Arguments and errors are the same.

    Args:
      skip: entries of the folder of images that are read otherwise: neither taken nor noted.
    """
    images = local_path(images)
    notes: list[str] = []
    if labels is None and (images / "images").is_dir():
        parent, (images, notes) = images, images_folder(images)
        labels = parent / "labels" if (parent / "labels").is_dir() else None
    labels = None if labels is None else local_path(labels)
    for path in (images, labels):
        if path is not None and not path.exists():
            raise DataError(f"{path}: does not exist; expected an image file or a folder of images")
    if labels is not None and images.is_dir() != labels.is_dir():
        kinds = ["a folder" if path.is_dir() else "a file" for path in (images, labels)]
        raise DataError(
            f"{images} is {kinds[0]} and {labels} is {kinds[1]}; expected two folders or two files"
        )
    if not images.is_dir():
        return Matched(((images, labels),))

    problems: list[Problem] = []
    own = _by_stem(images, problems, notes, skip)
    if not own:
        raise DataError(
            f"{images}: holds no image; expected {', '.join(EXTENSIONS)}"
            + (f" ({notes[0]})" if notes else "")
        )
    if labels is None:
        return Matched(tuple((path, None) for path in own.values()), tuple(problems), tuple(notes))

    files: list[tuple[Path, Path | None]] = []
    partners = _by_stem(labels, problems, notes)
    for stem, path in own.items():
        if stem in partners:
            files.append((path, partners[stem]))
        else:
            other = next(iter(partners.values()), None)
            hint = f" (names found there: {other.name}, …)" if other and not files else ""
            problems.append(_problem(path, "has no labels", f"{labels / stem}.png or .tif{hint}"))
    for stem, path in partners.items():
        if stem not in own:
            problems.append(_problem(path, "has no image", f"an image {images / stem}.*"))
    return Matched(tuple(files), tuple(problems), tuple(notes))


def pairs_of_files(
    image: Path, label: Path | None, name: str | None = None, group: str = ""
) -> tuple[list[Pair], list[Problem]]:
    """The pairs of one image file and its label file: one, or one for each page.

    Args:
      name: of the pair, with the page behind it for stacks; None: the image's stem.
    """
    name = stem_of(image) if name is None else name
    try:
        counts = [count_pages(path) for path in (image, label) if path is not None]
    except DataError:
        return [Pair(name, image, label, group=group)], []  # the check reads it again, and reports
    if len(set(counts)) > 1:
        found, expected = f"has {counts[1]} pages", f"{counts[0]}, as in {image}"
        return [], [_problem(label or image, found, expected)]
    if counts[0] == 1:
        return [Pair(name, image, label, group=group)], []
    return [
        Pair(shown(Path(name), k), image, label, k, k if label is not None else None, group)
        for k in range(counts[0])
    ], []


def stem_of(path: Path) -> str:
    """The name that image and labels share: without `.png`, `.tif`, `.ome.tif`.

    Accents are composed (Unicode NFC): macOS and archives made there take them apart.
    """
    stem = re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE)
    return _composed(stem)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key under which "cell2" comes before "cell10"."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def images_folder(path: Path) -> tuple[Path, list[str]]:
    """`path`/images if there is such a folder, else `path`; a note on images beside it."""
    inside = path / "images"
    if not inside.is_dir():
        return path, []
    return inside, list(left_out(path, (p for p in path.iterdir() if is_image_name(p))))


def left_out(folder: Path, entries: Iterable[Path]) -> tuple[str, ...]:
    """A note that names what of a folder is not read, images of other kinds first; or none."""
    named = []
    for path in sorted(entries, key=lambda path: (natural_key(path.name), path.name)):
        inside = sum(map(is_image_name, path.iterdir())) if path.is_dir() else 0
        picture = _OTHER_KINDS.fullmatch(path.suffix) is not None
        more = f" (a folder, {inside} image{'s' * (inside != 1)} inside)" if inside else ""
        named.append((not picture, not inside, _printable(path.name) + more, picture))
    if not named:
        return ()
    names = [entry[2] for entry in sorted(named, key=lambda entry: entry[:2])]
    many = "other entry" if len(names) == 1 else "other entries"
    expected = f"; images are {', '.join(EXTENSIONS)}" if any(entry[3] for entry in named) else ""
    return (f"{folder}: {len(names)} {many} left out: {listed(names, NAMED)}{expected}",)


def is_image_name(path: Path) -> bool:
    """Whether a file is read as an image, by its name."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _by_stem(
    folder: Path, problems: list[Problem], notes: list[str], skip: Collection[Path] = ()
) -> dict[str, Path]:
    """The images of a folder by stem, in natural order; each stem once."""
    found: dict[str, Path] = {}
    ignored: list[Path] = []
    for path in sorted(folder.iterdir(), key=lambda p: (natural_key(p.name), p.name)):
        if path in skip:
            continue
        if not is_image_name(path) or path.is_dir():
            ignored += [path] if path.name != CLASSES_FILE else []
            continue
        stem = stem_of(path)
        if _printable(path.name) != path.name:  # neither files nor terminals could hold it
            problems.append(_problem(path, "has a name that is not UTF-8", "another name"))
        elif stem in found:
            other = found[stem].name
            alike = path.name != other and _composed(path.name) == _composed(other)
            how = " (one has its accents composed, the other apart)" if alike else ""
            problems.append(_problem(path, f"has the same name as {other}{how}", "each name once"))
        else:
            found[stem] = path
    notes += left_out(folder, ignored)
    return found


def _problem(path: Path, found: str, expected: str) -> Problem:
    return Problem(file=_printable(path), found=found, expected=expected)


def _printable(path: str | Path) -> str:
    """A path with the bytes that are not UTF-8 as \\xb5."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def beside_images(left_out: Mapping[Path, Sequence[str]]) -> list[str]:
    """A note on files that hold more than their images, such as masks and reduced images."""
    found = {path: held for path, held in left_out.items() if held}
    if not found:
        return []
    many = "1 file holds" if len(found) == 1 else f"{len(found)} files hold"
    each = (f"{path} ({listed(held)})" for path, held in found.items())
    return [f"{many} more than the images that are read: {listed(each)}"]


def find_records(source: str | Path) -> Records | None:
    """The TFRecord files, with GZIP or without, that `source` means; None if it means none.

    Args:
      source: such a file; a pattern with `*`, `?` or `[…]`; or a folder of such files that holds
        no images.

    Raises:
      DataError: a pattern without a file, or with one that holds no records.
    """
    source = Path(source)
    if re.search(r"[*?[]", str(source)) and not source.exists():
        parts = source.parts[1:] if source.is_absolute() else source.parts
        root = Path(source.anchor) if source.is_absolute() else Path()
        files = _ordered(path for path in root.glob(str(Path(*parts))) if path.is_file())
        strange = [path for path in files if not _holds_records(path)]
        if strange or not files:
            found = f"matches {strange[0]}" if strange else "matches no file"
            raise DataError(f"{source}: {found}; expected TFRecord files")
        return Records(files)
    if source.is_file():
        return None if is_image_name(source) or not _holds_records(source) else Records((source,))
    if not source.is_dir() or (source / "images").is_dir():
        return None
    files = _ordered(path for path in source.iterdir() if path.is_file())
    if any(map(is_image_name, files)):
        return None
    held = tuple(path for path in files if _holds_records(path))
    others = [path.name for path in files if path not in held and path.name != CLASSES_FILE]
    many = f"{len(others)} other {'file' if len(others) == 1 else 'files'}"
    notes = (f"{source}: {many} left out: {', '.join(others[:3])}",) if others else ()
    return Records(held, notes=notes) if held else None


def _holds_records(file: Path) -> bool:
    """Whether a file begins as one of tf.Example records does; of an empty one, its name counts."""
    try:
        with file.open("rb") as opened:
            zipped = opened.read(2) == GZIP
        with gzip.open(file) if zipped else file.open("rb") as opened:
            head = opened.read(_RECORD_HEADER + 1)
    except (OSError, EOFError):
        return "tfrecord" in file.name
    if not head:
        return zipped or "tfrecord" in file.name
    length = int.from_bytes(head[:8], "little")
    return len(head) > _RECORD_HEADER and 0 < length < 1 << 32 and head[_RECORD_HEADER:] == b"\n"


def _ordered(paths: Iterable[Path]) -> tuple[Path, ...]:
    kept = (path for path in paths if not path.name.startswith("."))
    return tuple(sorted(kept, key=lambda path: (natural_key(path.name), str(path))))
