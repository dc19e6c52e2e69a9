"""Errors that a user can mend: each message says what was found and what was expected."""

from collections.abc import Iterable


class KerasUnetError(ValueError):
    """Base of this package's errors; the command line prints it without a traceback."""


class ConfigError(KerasUnetError):
    """A setting is unknown, out of range, or does not fit another one."""


class DataError(KerasUnetError):
    """Images or labels cannot be used as they are; names every bad file."""


class TrainingError(KerasUnetError):
    """A run cannot go on; what it had kept before stays usable."""


class ExportError(KerasUnetError):
    """A model could not be exported or published; nothing was left half-written."""


class RemoteError(KerasUnetError):
    """A place such as gs://… cannot be read or written: its library, credentials or network."""


class ServingError(KerasUnetError):
    """A server did not answer a request: its status code and message."""

    def __init__(self, message: str, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code  # gRPC's name for it, over REST too


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few, and how many there are."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "")
