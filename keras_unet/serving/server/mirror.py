"""Serves models on an object store: their newest versions are fetched into a local folder."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

from keras_unet.errors import ConfigError, RemoteError
from keras_unet.remote_path import RemotePath
from keras_unet.serving.folders import UNFINISHED, numbered
from keras_unet.serving.remote_folders import complete
from keras_unet.serving.server import logs


class Mirror:
    """Keeps `folder`/<model>/<n> as the newest version of each model of a remote folder.

    A version appears complete: it is fetched beside and renamed. Like `discover`, it takes a folder
    of models or of one model's versions.
    """

    def __init__(self, remote: RemotePath, poll_seconds: float) -> None:
        self._remote, self._poll_seconds = remote, poll_seconds
        self._work = tempfile.TemporaryDirectory(prefix="keras-unet-serve-")  # for this process
        self.folder = Path(self._work.name)
        self._said = ""

    def start(self) -> Path:
        """Fetches what is there, and looks again now and then from now on; returns `folder`.

        Raises:
            ConfigError: there is no such folder.
            RemoteError: it cannot be read.
        """
        if not self._remote.is_dir():
            raise ConfigError(
                f"{self._remote}: no such folder; expected one that holds published models"
            )
        self.poll()
        threading.Thread(target=self._follow, name="mirror", daemon=True).start()
        return self.folder

    def poll(self) -> None:
        """Fetches what is new, and deletes what the poll before has replaced.

        Raises:
            RemoteError: the folder, or one of its models, cannot be read; the others are fetched.
        """
        models = self._models()
        for model in self.folder.iterdir():
            if model.name not in models:
                shutil.rmtree(model, ignore_errors=True)
        failed: RemoteError | None = None
        for name, versions in models.items():
            try:
                self._follow_model(name, versions)
            except RemoteError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _follow_model(self, name: str, versions: dict[int, RemotePath]) -> None:
        newest, local = max(versions), self.folder / name
        local.mkdir(exist_ok=True)
        here = numbered(local)
        if newest in here:
            for number in here.keys() - {newest}:
                shutil.rmtree(here[number], ignore_errors=True)
            return
        beside = local / f"{UNFINISHED}{newest}"
        shutil.rmtree(beside, ignore_errors=True)
        versions[newest].get(beside)
        beside.rename(local / str(newest))
        logs.event("fetched", model=name, version=newest, source=str(versions[newest]))

    def _models(self) -> dict[str, dict[int, RemotePath]]:
        own = complete(self._remote)
        if own:
            return {self._remote.name: own}
        below = [one for one in self._remote.iterdir() if not one.name.startswith(".")]
        found = {model.name: complete(model) for model in below}
        return {name: versions for name, versions in found.items() if versions}

    def _follow(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._poll_seconds):
            try:
                self.poll()
                self._said = ""
            except (RemoteError, OSError) as error:  # what is served stays
                if str(error) != self._said:
                    with contextlib.suppress(OSError):
                        logs.event("poll_failed", level="error", error=str(error))
                self._said = str(error)
