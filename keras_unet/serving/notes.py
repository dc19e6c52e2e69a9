"""What a published version notes of itself, in `assets.extra/`: not of the model, of the copy."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keras_unet.errors import ExportError
from keras_unet.remote_path import RemotePath

ROLLBACK = Path("assets.extra", "rollback.json")
LINEAGE = Path("assets.extra", "lineage.json")
_FROZEN = ConfigDict(frozen=True, extra="forbid")
Note = TypeVar("Note", bound=BaseModel)


class Rollback(BaseModel):
    """That a version is a copy: of which one, by `keras-unet rollback`."""

    model_config = _FROZEN

    of: int = Field(ge=0)


class Origin(BaseModel):
    """What a version remembers of the pipeline that pushed it.

    metadata: the store, a SQLite file; "" where it is none. model, uri: the Model artifact's number
    and place. fingerprint: of the SavedModel.
    """

    model_config = _FROZEN

    format: int = 1
    metadata: str
    model: int
    uri: str
    fingerprint: str


def read_rollback(version: Path | RemotePath) -> Rollback | None:
    """None: it is no copy.

    Raises:
        ExportError: the note is damaged.
    """
    return _read(version, ROLLBACK, Rollback, "is no record of keras-unet rollback")


def read_origin(version: Path | RemotePath) -> Origin | None:
    """None: no pipeline pushed it.

    Raises:
        ExportError: the note is damaged.
    """
    return _read(version, LINEAGE, Origin, "is no lineage of keras_unet")


def write_rollback(version: Path, note: Rollback) -> None:
    path = version / ROLLBACK
    path.parent.mkdir(exist_ok=True)
    path.write_text(note.model_dump_json() + "\n", encoding="utf-8")


def _read(version: Path | RemotePath, name: Path, kind: type[Note], is_none: str) -> Note | None:
    path = version / name
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ExportError(
            f"{path}: {is_none} ({error}); mend it, or delete it if nothing of it is needed"
        ) from error
