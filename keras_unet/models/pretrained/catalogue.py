"""Catalogue of the models that come with the package: the `.keras` files beside this one.

`models/packing.py` makes such a file. Nothing here needs Keras.
"""

from __future__ import annotations

import os
from pathlib import Path

from keras_unet.errors import DataError
from keras_unet.models.model_card import ModelCard, card_in
from keras_unet.settings import Frozen, did_you_mean

FOLDER = Path(__file__).parent
SUFFIX = ".keras"


class PretrainedModel(Frozen):
    """A model that comes with the package; its card has a `release`."""

    name: str
    file: Path
    bytes: int
    card: ModelCard


def pretrained_names() -> tuple[str, ...]:
    """What `load_model` takes for a path, in alphabetical order."""
    return tuple(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))


def pretrained_file(name: str | os.PathLike[str]) -> Path | None:
    """The file of a pretrained model; None: there is none of this name."""
    text = os.fspath(name)
    return FOLDER / f"{text}{SUFFIX}" if text in pretrained_names() else None


def pretrained_models() -> list[PretrainedModel]:
    """All of them with their cards.

    Raises:
        DataError: a file is damaged, or does not say what it is for.
    """
    found = []
    for name in pretrained_names():
        file = FOLDER / f"{name}{SUFFIX}"
        card = card_in(file)
        if card is None or card.release is None:
            raise DataError(f"{file}: its card has no release; expected what pack() writes")
        found.append(PretrainedModel(name=name, file=file, bytes=file.stat().st_size, card=card))
    return found


def is_name(model: str | os.PathLike[str]) -> bool:
    """Whether that can only be a name: nothing lies there, and it has no folder and no suffix."""
    path = Path(model)
    return len(path.parts) == 1 and not path.suffix and not path.exists()


def unknown_name(name: str | os.PathLike[str]) -> str:
    """The end of a message: the names there are, and the one that was probably meant."""
    known = pretrained_names()
    listed = f", or a pretrained model: {', '.join(known)}" if known else ""
    return listed + did_you_mean(os.fspath(name), known)
