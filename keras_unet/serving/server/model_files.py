"""Models that are served: found in a folder or on an object store, or listed in a config file."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from pydantic import Field

from keras_unet.disk import read_text, replacing
from keras_unet.errors import ConfigError, RemoteError
from keras_unet.models.pretrained.catalogue import pretrained_file
from keras_unet.remote_path import RemotePath, local_path, remote_uri
from keras_unet.serving.folders import SAVED_MODEL, complete, numbered
from keras_unet.serving.protocol.messages import message_type
from keras_unet.serving.server import observe
from keras_unet.serving.server.settings import Batching
from keras_unet.settings import Frozen, validated

_WRAPPED = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
_UNBOUNDED = 1 << 62


class ServedModel(Frozen):
    """A model: its folder, which of its versions are served, and their labels."""

    name: str
    base_path: Path
    latest: int | None = 1  # so many of the newest; None: all
    specific: tuple[int, ...] = ()  # these, and no others
    labels: dict[str, int] = Field(default_factory=dict)

    def wanted(self) -> dict[int, Path]:
        """The versions that should be served now: {number: folder}.

        Raises:
            OSError: the folder is not there, or cannot be read.
        """
        found = numbered(self.base_path)
        if self.specific:
            return {n: found[n] for n in self.specific if n in found}
        numbers = sorted(found)
        return {n: found[n] for n in (numbers if self.latest is None else numbers[-self.latest :])}


def discover(folder: Path) -> list[ServedModel]:
    """Every subfolder that holds versions, by its name; or the folder itself if it does.

    Raises:
        ConfigError: there is no such folder, or it can hold no versions.
        OSError: a folder cannot be read; one that may not be is left out.
    """
    if not folder.is_dir():
        shipped = pretrained_file(folder) is not None
        hint = f"; first: keras-unet export {folder} saved_models/{folder}" if shipped else ""
        raise ConfigError(
            f"{folder}: no such folder; expected one that holds published models{hint}"
        )
    if numbered(folder):
        return [ServedModel(name=folder.resolve().name, base_path=folder)]
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            try:
                there = numbered(entry)
            except (PermissionError, FileNotFoundError):  # "lost+found", or deleted just now
                continue
            if there:
                found.append(ServedModel(name=entry.name, base_path=entry))
    if not found:
        _refuse_other(folder)
    return found


def _refuse_other(folder: Path) -> None:
    """Says what to serve instead of a folder without versions that is something else.

    Raises:
        ConfigError: it is a version itself, or what training left.
    """
    try:
        if numbered(folder):
            return
    except OSError:  # it may come
        return
    if (folder / SAVED_MODEL).is_file():
        own, above = folder.resolve().name, folder.resolve().parent
        cure = f"keras-unet serve {above}" if own.isdigit() else f"move it to {folder}/1"
        raise ConfigError(
            f"{folder}: is a SavedModel, one version; expected the folder that holds a model's "
            f"versions, or one of several models: {cure}"
        )
    trained = sorted(folder.glob("*.keras"))
    if trained:
        raise ConfigError(
            f"{folder}: holds {trained[0].name}, which is trained but not published; publish it "
            f"first: keras-unet export {folder} saved_models/NAME"
        )


def read_config(file: Path) -> list[ServedModel]:
    """Reads a ModelServerConfig text file; relative paths start at the file's folder.

    Raises:
        ConfigError: not such a file, or it asks for something else than SavedModels.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text = read_text(file)
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, text_format.ParseError) as error:
        raise ConfigError(f"{file}: not a model config file ({error})") from error
    try:
        return from_proto(config, file.parent)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def from_proto(config: Any, relative_to: Path) -> list[ServedModel]:
    """A ModelServerConfig as models.

    Raises:
        ConfigError: names that repeat or are empty, another platform, a custom config, a folder
            that can hold no versions, a place on an object store.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError("expected a model_config_list")
    models: dict[str, ServedModel] = {}
    for one in config.model_config_list.config:
        if not one.name or not one.base_path:
            raise ConfigError("a model without a name or a base_path")
        if one.name in models:
            raise ConfigError(f"model {one.name!r} is named twice")
        if remote_uri(one.base_path):
            raise ConfigError(
                f"model {one.name!r}: base_path is {one.base_path}; expected a folder of this "
                "machine, where it is mounted (TensorFlow Serving's own server reads some such; "
                f"keras-unet serve {one.base_path} serves this model alone)"
            )
        if one.model_platform not in ("", "tensorflow"):
            raise ConfigError(f"model {one.name!r}: platform {one.model_platform!r} is not served")
        base_path = relative_to / local_path(one.base_path)
        _refuse_other(base_path)
        policy = one.model_version_policy
        latest: int | None = 1
        specific: tuple[int, ...] = ()
        match policy.WhichOneof("policy_choice"):
            case "all":
                latest = None
            case "latest":
                latest = policy.latest.num_versions or 1
            case "specific":
                specific = tuple(policy.specific.versions)
        models[one.name] = ServedModel(  # the proto's types are checked
            name=one.name,
            base_path=base_path,
            latest=latest,
            specific=specific,
            labels=dict(one.version_labels),
        )
    return list(models.values())


def read_batching(file: Path) -> Batching:
    """The file's parameters; what it leaves out keeps this server's default.

    Batches are bounded by images alone then, as TensorFlow Serving's are.

    Raises:
        ConfigError: not such a file, or it pads images (whose borders are mirrored, not padded).
    """
    from google.protobuf import text_format

    try:
        parameters = text_format.Parse(read_text(file), message_type("BatchingParameters")())
    except (OSError, text_format.ParseError) as error:
        raise ConfigError(f"{file}: not a batching parameters file ({error})") from error
    if parameters.pad_variable_length_inputs:
        raise ConfigError(f"{file}: pad_variable_length_inputs would change the masks at borders")
    given: dict[str, Any] = {"max_batch_pixels": _UNBOUNDED} | {
        name: getattr(parameters, name).value for name in _WRAPPED if parameters.HasField(name)
    }
    if parameters.allowed_batch_sizes:
        given["allowed_batch_sizes"] = tuple(parameters.allowed_batch_sizes)
    return validated(Batching, given, str(file))


class Mirror:
    """Keeps `folder`/<model>/<n> as the newest version of each model of a remote folder.

    A version appears complete: it is fetched beside and renamed. Like `discover`, it takes a folder
    of models or of one model's versions.
    """

    def __init__(self, remote: RemotePath, poll_seconds: float) -> None:
        self._remote, self._poll_seconds = remote, poll_seconds
        self._work = tempfile.TemporaryDirectory(prefix="keras-unet-serve-")  # for this process
        self.folder = Path(self._work.name)
        self._logged = ""  # the last poll's error

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
        threading.Thread(target=self._run, name="mirror", daemon=True).start()
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
                self._fetch_newest(name, versions)
            except RemoteError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _fetch_newest(self, name: str, versions: dict[int, RemotePath]) -> None:
        newest, local = max(versions), self.folder / name
        local.mkdir(exist_ok=True)
        here = numbered(local)
        if newest in here:
            for number in here.keys() - {newest}:
                shutil.rmtree(here[number], ignore_errors=True)
            return
        with replacing(local / str(newest)) as beside:
            versions[newest].get(beside)
        observe.log_event("fetched", model=name, version=newest, source=str(versions[newest]))

    def _models(self) -> dict[str, dict[int, RemotePath]]:
        own = complete(self._remote)
        if own:
            return {self._remote.name: own}
        below = [one for one in self._remote.iterdir() if not one.name.startswith(".")]
        found = {model.name: complete(model) for model in below}
        return {name: versions for name, versions in found.items() if versions}

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._poll_seconds):
            try:
                self.poll()
                self._logged = ""
            except (RemoteError, OSError) as error:  # what is served stays
                if str(error) != self._logged:
                    with contextlib.suppress(OSError):
                        observe.log_event("poll_failed", level="error", error=str(error))
                self._logged = str(error)
