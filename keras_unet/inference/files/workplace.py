"""Where unfinished results wait: a hidden folder within the output folder, for one process."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from keras_unet.errors import DataError

NAME = ".predict"
LOCK = "lock"
SCRATCHES = ("classes", "chances")


class Workplace(AbstractContextManager["Workplace"]):
    """The folder `.predict` in `output`, both made if absent; used in a `with` block.

    It holds for each image a record (`cells.json`, which stays) and the unfinished results.

    Raises:
        DataError: another process is writing there. OSError: no folder can be made there.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / NAME

    def __enter__(self) -> Workplace:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataError(
                f"{self.output}: another prediction is writing there; wait for it, or choose "
                "another output folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def record(self, stem: str) -> Path:
        return self.folder / f"{stem}.json"

    def scratch(self, stem: str, what: str) -> Path:
        return self.folder / f"{stem}.{what}"

    def clear(self, stem: str) -> None:
        """Removes what was computed of an image."""
        for what in SCRATCHES:
            self.scratch(stem, what).unlink(missing_ok=True)

    def publish(self, names: Iterable[str]) -> None:
        """Moves finished results into the output folder, where they replace older ones.

        Called again after a kill, it goes on.
        """
        for name in names:
            new, place, old = self.folder / name, self.output / name, self.folder / f"{name}.old"
            if not new.exists():
                continue
            remove(old)
            if place.is_dir():  # a folder can't be replaced by a rename
                place.rename(old)
            new.replace(place)
            remove(old)


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
