"""Class names from a file beside the data: `classes.txt`, a name a line, the background's first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from keras_unet.disk import read_text
from keras_unet.errors import DataError, listed

CLASSES_FILE = "classes.txt"


class ClassNames(NamedTuple):
    """The names of all classes, and the file that says them."""

    names: tuple[str, ...]
    path: Path

    def __str__(self) -> str:
        """One line for a person."""
        return f"class names: {', '.join(self.names)} (from {self.path})"


def find_class_names(
    images: str | Path, labels: str | Path | None = None, *, count: int
) -> ClassNames | None:
    """The class names in a `classes.txt` beside a data set's files, if there is one.

    It may lie in the folder of the images (or of their file, a stack or records), in that of the
    labels, or in the one that holds both.

    Args:
        images, labels: as for `find_pairs` and `find_records`.
        count: of the classes in the labels.

    Raises:
        DataError: see `read_class_names`; or two of the files differ.
        ConfigError: no UTF-8.
    """
    found: ClassNames | None = None
    for folder in _folders(Path(images), None if labels is None else Path(labels)):
        path = folder / CLASSES_FILE
        if not path.is_file():
            continue
        one = ClassNames(read_class_names(path, count), path)
        if found is not None and one.names != found.names:
            raise DataError(
                f"{one.path}: names the classes {listed(one.names)}, but {found.path} names them "
                f"{listed(found.names)}; expected one of the two files, or equal names"
            )
        found = found or one
    return found


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names in a file: UTF-8, a name a line; blank lines and blanks around names don't count.

    Raises:
        DataError: not `count` names, or one twice; names the file, what was found and expected.
        ConfigError: no UTF-8, see `read_text`.
    """
    names = [name for line in read_text(path).splitlines() if (name := " ".join(line.split()))]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"{path}: names {listed(doubled)} more than once; expected different names")
    if len(names) != count:
        many = f"{len(names)} class{'es' * (len(names) != 1)} ({listed(names) or 'no name'})"
        absent = " (where these labels lack a class, data.num_classes or data.label_values says so)"
        raise DataError(
            f"{path}: names {many}; expected {count}, as the labels have, the background's first, "
            f"a name a line{absent * (len(names) > count)}"
        )
    return tuple(names)


def _folders(images: Path, labels: Path | None) -> list[Path]:
    """Where the file may lie: with images, with labels, and in what holds these two folders."""
    if (images / "images").is_dir():
        labels = images / "labels" if labels is None else labels
        images = images / "images"
    places = [images] if labels is None else [labels, images]
    found = dict.fromkeys(place if place.is_dir() else place.parent for place in places)
    above = {folder.parent for folder in found}
    return [*found, *(above if len(found) == 2 and len(above) == 1 else ())]
