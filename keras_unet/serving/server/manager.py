"""Manager of the served models: polls folders, loads new versions, drains the old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_unet.errors import ConfigError
from keras_unet.serving.protocol.codes import Code, Refused, as_refused, invalid
from keras_unet.serving.server.model_files import ServedModel
from keras_unet.serving.server.servable import Servable, State, Version

REMEMBERED = 100  # ended versions whose status is still known, a model

Event = Callable[..., None]


class Manager:
    """The models being served, in a thread that polls.

    As TensorFlow Serving's availability-preserving policy: a new version is loaded and warmed
    up before the old one is drained and freed; one that does not load leaves the old one.

    Args:
        models: called at every poll for the models that should be served.
        load: makes a `Servable` of a version's folder, warmed up.
        event: called with what happens: event(name, **fields).
        poll_seconds, retries, retry_seconds: see `ServerSettings`.
    """

    def __init__(
        self,
        models: Callable[[], Iterable[ServedModel]],
        load: Callable[[str, Path], Servable],
        *,
        event: Event,
        poll_seconds: float,
        retries: int,
        retry_seconds: float,
    ) -> None:
        self._models = models
        self._load = load
        self._event = event
        self._poll_seconds = poll_seconds
        self._retries = retries
        self._retry_seconds = retry_seconds
        self._configured: dict[str, ServedModel] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._problems: dict[str, str] = {}  # of the last poll
        self._lock = threading.RLock()  # the dictionaries
        self._polling = threading.Lock()  # one poll at a time
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads what is there, then polls in a thread until `stop`."""
        self.poll()
        self._thread = threading.Thread(target=self._run, name="poll", daemon=True)
        self._thread.start()

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Drains every version, for at most so long."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=max(1.0, drain_seconds))
        with self._lock:
            versions = [v for of in self._versions.values() for v in of.values()]
        for version in versions:
            version.retire()
        until = time.monotonic() + drain_seconds
        for version in versions:
            if version.state is State.UNLOADING:
                version.ended.wait(max(0.0, until - time.monotonic()))

    def reload(self, models: Iterable[ServedModel]) -> None:
        """Serves these models from now on, and loads them before it returns.

        Raises:
            Refused: a label names a version that is not available (as TensorFlow Serving), or a
                model has no version that loads.
        """
        models = list(models)
        for model in models:
            if not _has_versions(model):
                raise Refused(
                    Code.NOT_FOUND, f"model {model.name}: no versions in {model.base_path}"
                )
        with self._lock:
            before, self._models = self._models, lambda: models
            known = {name: model.labels for name, model in self._configured.items()}
        self.poll()
        for model in models:
            versions = self._of(model.name)
            if not any(version.state is State.AVAILABLE for version in versions):
                self._models = before  # the next poll takes back what was loaded
                error = next((v.error for v in versions if v.error), None)
                raise error or Refused(Code.UNAVAILABLE, f"model {model.name} is not available")
        bad = [
            (model.name, label, number)
            for model in models
            for label, number in model.labels.items()
            if known.get(model.name, {}).get(label) != number
            and not self._available(model.name, number)
        ]
        if bad:
            kept = [
                _without(model, {label for name, label, _ in bad if name == model.name})
                for model in models
            ]
            with self._lock:
                self._models = lambda: kept
                self._configured = {model.name: model for model in kept}
            name, label, number = bad[0]
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"Request to assign label {label} to version {number} of model {name}, which is "
                "not currently available for inference",
            )

    def acquire(self, name: str, number: int | None = None, label: str = "") -> Version:
        """The version to use, entered: `leave` it. Newest available one without `number`, `label`.

        Raises:
            Refused: NOT_FOUND, INVALID_ARGUMENT for an unknown label.
        """
        with self._lock:
            if label:
                number = self._labelled(name, label)
            versions = self._versions.get(name, {})
            if number is None:
                for candidate in sorted(versions, reverse=True):
                    if versions[candidate].enter():
                        return versions[candidate]
                raise Refused(Code.NOT_FOUND, f"Servable not found for request: Latest({name})")
            if number in versions and versions[number].enter():
                return versions[number]
        raise Refused(Code.NOT_FOUND, f"Servable not found for request: Specific({name}, {number})")

    def status(
        self, name: str, number: int | None = None, label: str = ""
    ) -> list[tuple[int, State, Code, str]]:
        """(version, state, error code, message), newest first.

        Raises:
            Refused: NOT_FOUND, INVALID_ARGUMENT for an unknown label.
        """
        with self._lock:
            if label:
                number = self._labelled(name, label)
            versions = self._of(name)
            if number is not None:
                versions = [v for v in versions if v.number == number]
                if not versions:
                    raise Refused(
                        Code.NOT_FOUND, f"Could not find version {number} of model {name}"
                    )
        if not versions:
            raise Refused(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return [version.status() for version in versions]

    def names(self) -> list[str]:
        """The models that have an available version."""
        with self._lock:
            return sorted(
                name
                for name, versions in self._versions.items()
                if any(v.state is State.AVAILABLE for v in versions.values())
            )

    def poll(self) -> None:
        """Compares what is wanted with what is served, and makes it so.

        What cannot be read, for a moment perhaps, changes nothing of what is served.
        """
        with self._polling:
            try:
                models = {model.name: model for model in self._models()}
            except (ConfigError, OSError) as error:
                self._log_problem("", error)
                return
            self._problems.pop("", None)
            with self._lock:
                self._configured = models
                gone = [name for name in self._versions if name not in models]
            for name in gone:
                for version in self._of(name):
                    version.reset_failures()
                    self._retire(version)
            for model in models.values():
                try:
                    wanted = model.wanted()
                except OSError as error:
                    self._log_problem(model.name, error)
                    continue
                self._problems.pop(model.name, None)
                self._update(model, wanted)

    def _log_problem(self, about: str, error: Exception) -> None:
        """Logs what is wrong once, not at every poll."""
        if self._problems.get(about) != str(error):
            self._problems[about] = str(error)
            self._event("poll_failed", level="error", error=str(error))

    def _labelled(self, name: str, label: str) -> int:
        model = self._configured.get(name)
        if model is None or label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return model.labels[label]

    def _update(self, model: ServedModel, wanted: dict[int, Path]) -> None:
        for number in sorted(wanted, reverse=True):
            version = self._versions.get(model.name, {}).get(number)
            if version is None or (
                version.state is State.END and self._due(version, wanted[number])
            ):
                self._load_version(model, number, wanted[number], version)
            if self._stopped.is_set():
                return
        serving = any(self._available(model.name, number) for number in wanted)
        for version in self._of(model.name):
            if version.number in wanted:
                continue
            version.reset_failures()
            if serving or not wanted:  # the old one stays until something has taken its place
                self._retire(version)
        self._forget(model.name, wanted)

    def _due(self, version: Version, folder: Path) -> bool:
        if not version.error or version.changed(folder):
            return True
        return version.failures <= self._retries and time.monotonic() >= version.retry_at

    def _load_version(
        self, model: ServedModel, number: int, folder: Path, version: Version | None
    ) -> None:
        if version is None:
            version = Version(model.name, number, folder)
            with self._lock:
                self._versions.setdefault(model.name, {})[number] = version
        version.folder = folder
        version.loading()
        started = time.monotonic()
        try:
            servable = self._load(model.name, folder)
        except Exception as error:  # a bad version must not end the server
            refused = as_refused(error)
            version.failed(refused, time.monotonic() + self._retry_seconds)
            self._event(
                "load_failed",
                level="error",
                model=model.name,
                version=number,
                code=refused.code.name,
                error=refused.message,
            )
            return
        version.loaded(servable)
        seconds = round(time.monotonic() - started, 3)
        self._event("available", model=model.name, version=number, seconds=seconds)

    def _retire(self, version: Version) -> None:
        if version.state is State.AVAILABLE:
            self._event("unloading", model=version.model, version=version.number)
            version.retire()

    def _forget(self, name: str, wanted: dict[int, Path]) -> None:
        with self._lock:
            versions = self._versions.get(name, {})
            ended = [n for n in sorted(versions) if versions[n].state is State.END]
            for number in [n for n in ended if n not in wanted][:-REMEMBERED]:
                del versions[number]

    def _of(self, name: str) -> list[Version]:
        with self._lock:
            versions = self._versions.get(name, {})
            return [versions[number] for number in sorted(versions, reverse=True)]

    def _available(self, name: str, number: int) -> bool:
        with self._lock:
            version = self._versions.get(name, {}).get(number)
            return version is not None and version.state is State.AVAILABLE

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception as error:  # whatever it is, the next version must be found
                self._log_problem("*", error)
            else:
                self._problems.pop("*", None)


def _has_versions(model: ServedModel) -> bool:
    try:
        return bool(model.wanted())
    except OSError:
        return False


def _without(model: ServedModel, labels: set[str]) -> ServedModel:
    left = {label: number for label, number in model.labels.items() if label not in labels}
    return model.model_copy(update={"labels": left})
