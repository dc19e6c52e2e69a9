"""Remote paths: gs://, s3://, az://, hdfs:// and others, on object stores mostly.

They are read and written by fsspec with the library of their scheme (gcsfs, s3fs, adlfs, …), or,
where that is not installed, by TensorFlow, which has gs:// built in. Credentials are found as those
libraries find them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Protocol
from urllib.parse import unquote

from keras_unet.errors import ConfigError, KerasUnetError, RemoteError

# two letters or more: "C:/images" is a drive of Windows
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_LIBRARIES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "s3a": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hdfs": "fsspec pyarrow",
}
_OBJECT_STORES = _LIBRARIES.keys() - {"hdfs"}  # without folders: to make one would make a bucket


def remote_uri(path: str | os.PathLike[str]) -> str | None:
    """The URI of a place elsewhere, "gs://bucket/unet"; None for a local path.

    pathlib makes "gs:/bucket/unet" of it, which is read as it was meant.
    """
    text = os.fspath(path)
    found = _URI.fullmatch(text)
    if found is None or found[1].lower() == "file":
        return None
    return text if "://" in text else f"{found[1]}://{found[2]}"


def as_path(path: str | os.PathLike[str] | RemotePath) -> Path | RemotePath:
    """A local path ("file:///models" too), or a `RemotePath`."""
    if isinstance(path, RemotePath):
        return path
    uri = remote_uri(path)
    if uri is not None:
        return RemotePath(uri)
    found = _URI.fullmatch(os.fspath(path))
    if found is None:
        return Path(path)
    return Path("/" + unquote(found[2].removeprefix("localhost/")))  # file://


def local_path(path: str | os.PathLike[str], what: str = "the path") -> Path:
    """A path that is no URI: what reads and writes nothing remote must not make a folder "gs:".

    Raises:
        ConfigError: it is one.
    """
    place = as_path(path)
    if isinstance(place, RemotePath):
        raise ConfigError(
            f"{what} is {place}; expected a path on this machine: mount the bucket (gcsfuse, "
            "mount-s3, blobfuse2), or copy from and to it"
        )
    return place


@contextlib.contextmanager
def fetched(path: str | os.PathLike[str] | RemotePath) -> Iterator[Path]:
    """A local file or folder: itself, or a copy of a remote one while the block lasts.

    Errors of this package within the block name the remote place.

    Raises:
        RemoteError: it is not there, or cannot be read.
    """
    place = as_path(path)
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="keras-unet-") as work:
        copy = Path(work, place.name)
        place.get(copy)
        try:
            yield copy
        except KerasUnetError as error:
            if str(copy) not in str(error):
                raise
            raise type(error)(str(error).replace(str(copy), str(place))) from error


class RemotePath:
    """A file or folder elsewhere, with those methods of `pathlib.Path` that publishing needs.

    A folder is there if something is in it. Nothing is asked of the store until a method is called.

    Raises:
        RemoteError: by every method: the library is missing, or what the store or its library said.
    """

    def __init__(self, uri: str, files: _Files | None = None) -> None:
        self._uri = uri.rstrip("/")
        self._opened = files

    def __str__(self) -> str:
        return self._uri

    def __repr__(self) -> str:
        return f"RemotePath({self._uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._uri == other._uri

    def __hash__(self) -> int:
        return hash(self._uri)

    def __lt__(self, other: RemotePath) -> bool:
        return self._uri < other._uri

    def __truediv__(self, name: str | PurePath) -> RemotePath:
        below = name.as_posix() if isinstance(name, PurePath) else name
        return RemotePath(f"{self._uri}/{below}", self._opened)

    @property
    def name(self) -> str:
        return self._uri.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """Of a bucket: itself."""
        above = self._uri.rpartition("/")[0]
        return self if above.endswith(("/", ":")) else RemotePath(above, self._opened)

    def resolve(self) -> RemotePath:
        return self

    def is_dir(self) -> bool:
        return self._kind() is True

    def is_file(self) -> bool:
        return self._kind() is False

    def exists(self) -> bool:
        return self._kind() is not None

    def iterdir(self) -> Iterator[RemotePath]:
        with self._telling():
            names = sorted(self._files.names(self._uri))
        return iter([self / name for name in names])

    def files(self) -> list[str]:
        """The files below a folder, however deep, relative to it."""
        found: list[str] = []
        for entry in self.iterdir():
            below = entry.files() if entry.is_dir() else None
            found += [entry.name] if below is None else [f"{entry.name}/{one}" for one in below]
        return found

    def read_bytes(self) -> bytes:
        with self._telling():
            return self._files.read(self._uri)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Whole or not at all, as object stores write."""
        with self._telling():
            self._files.write(self._uri, text.encode(encoding))

    def get(self, local: Path) -> None:
        """Copies it, a file or a folder with all in it, to `local`."""
        if not self.is_dir():
            with self._telling():
                self._files.get(self._uri, local)
            return
        local.mkdir(parents=True)
        for entry in self.iterdir():
            entry.get(local / entry.name)

    def put(self, local: Path) -> None:
        """Copies a local folder here."""
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            target = self / file.relative_to(local)
            with target._telling():
                target._files.put(file, str(target))

    def move(self, target: RemotePath) -> None:
        """Moves a file within the store."""
        with self._telling():
            self._files.move(self._uri, str(target))

    def delete(self) -> None:
        """Deletes it, a file or a folder with all in it; nothing where there is none."""
        kind = self._kind()
        if kind is not None:
            with self._telling():
                self._files.delete(self._uri, folder=kind)

    def _kind(self) -> bool | None:
        """True: a folder, False: a file, None: neither."""
        with self._telling():
            return self._files.is_folder(self._uri)

    @property
    def _files(self) -> _Files:
        if self._opened is None:
            self._opened = _open(self._uri)
        return self._opened

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except KerasUnetError:
            raise
        except Exception as error:  # each library has its own: no credentials, no such bucket, …
            said = " ".join(str(error).split()) or "no more was said"
            raise RemoteError(f"{self._uri}: {type(error).__name__}: {said[:500]}") from error


class _Files(Protocol):
    """A store's files, by their URIs; a file's parents need not be there."""

    def is_folder(self, uri: str) -> bool | None: ...

    def names(self, uri: str) -> list[str]: ...

    def read(self, uri: str) -> bytes: ...

    def write(self, uri: str, data: bytes) -> None: ...

    def get(self, uri: str, local: Path) -> None: ...

    def put(self, local: Path, uri: str) -> None: ...

    def move(self, uri: str, target: str) -> None: ...

    def delete(self, uri: str, *, folder: bool) -> None: ...


def _open(uri: str) -> _Files:
    """By fsspec with the scheme's library, else by TensorFlow.

    Raises:
        RemoteError: neither knows the scheme here.
    """
    scheme = uri.partition(":")[0]
    with contextlib.suppress(ImportError, ValueError):  # not installed; a scheme that it knows not
        return _Fsspec(uri)
    with contextlib.suppress(ImportError):
        import tensorflow as tf

        if scheme in tf.io.gfile.get_registered_schemes():
            return _TensorFlow(tf)
    known = f" (pip install {_LIBRARIES[scheme]})" if scheme in _LIBRARIES else ""
    raise RemoteError(
        f"{uri}: nothing is installed here that reads and writes {scheme}://; expected a library "
        f"of fsspec for it{known}, or a path on this machine"
    )


class _Fsspec:
    def __init__(self, uri: str) -> None:
        from fsspec.core import url_to_fs

        # listings that were kept would hide what others publish
        self._fs: Any = url_to_fs(uri, use_listings_cache=False)[0]

    def is_folder(self, uri: str) -> bool | None:
        self._fs.invalidate_cache()
        try:
            return bool(self._fs.info(uri)["type"] == "directory")
        except FileNotFoundError:
            return None

    def names(self, uri: str) -> list[str]:
        self._fs.invalidate_cache()
        own = self._fs._strip_protocol(uri).rstrip("/")
        listed = (one["name"].rstrip("/") for one in self._fs.ls(uri, detail=True))
        return [name.rpartition("/")[2] for name in listed if name != own]  # itself: its marker

    def read(self, uri: str) -> bytes:
        return bytes(self._fs.cat_file(uri))

    def write(self, uri: str, data: bytes) -> None:
        self._with_parent(uri)
        self._fs.pipe_file(uri, data)

    def get(self, uri: str, local: Path) -> None:
        self._fs.get_file(uri, str(local))

    def put(self, local: Path, uri: str) -> None:
        self._with_parent(uri)
        self._fs.put_file(str(local), uri)

    def move(self, uri: str, target: str) -> None:
        self._with_parent(target)
        self._fs.mv(uri, target)

    def delete(self, uri: str, *, folder: bool) -> None:
        self._fs.rm(uri, recursive=folder)

    def _with_parent(self, uri: str) -> None:
        if uri.partition(":")[0].lower() not in _OBJECT_STORES:
            self._fs.makedirs(uri.rpartition("/")[0], exist_ok=True)


class _TensorFlow:
    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._gfile = tf.io.gfile

    def is_folder(self, uri: str) -> bool | None:
        try:  # `exists` and `isdir` would answer False where access is denied
            return bool(self._gfile.stat(uri).is_directory)
        except self._tf.errors.NotFoundError:
            return None

    def names(self, uri: str) -> list[str]:
        listed = (name.rstrip("/") for name in self._gfile.listdir(uri))
        # ram:// takes "assets.extra" for a file ".extra" in "assets"
        return [name for name in listed if self.is_folder(f"{uri}/{name}") is not None]

    def read(self, uri: str) -> bytes:
        with self._gfile.GFile(uri, "rb") as file:
            return bytes(file.read())

    def write(self, uri: str, data: bytes) -> None:
        self._with_parent(uri)
        parent, _, name = uri.rpartition("/")
        beside = f"{parent}/.{name}-{secrets.token_hex(4)}"  # "wb" empties none of ram://
        with self._gfile.GFile(beside, "wb") as file:
            file.write(data)
        self._gfile.rename(beside, uri, overwrite=True)

    def get(self, uri: str, local: Path) -> None:
        self._gfile.copy(uri, str(local), overwrite=True)

    def put(self, local: Path, uri: str) -> None:
        self._with_parent(uri)
        self._gfile.copy(str(local), uri, overwrite=True)

    def move(self, uri: str, target: str) -> None:
        self._with_parent(target)
        self._gfile.rename(uri, target, overwrite=True)

    def delete(self, uri: str, *, folder: bool) -> None:
        with contextlib.suppress(self._tf.errors.NotFoundError):  # as above, of what is beside
            (self._gfile.rmtree if folder else self._gfile.remove)(uri)

    def _with_parent(self, uri: str) -> None:
        self._gfile.makedirs(uri.rpartition("/")[0])
