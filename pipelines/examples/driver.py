"""Driver of ImageExampleGen: which span TFX reads, and whether anything has changed."""

from __future__ import annotations

from collections.abc import Iterable

from tfx.components.example_gen import driver, input_processor
from tfx.proto import example_gen_pb2, range_config_pb2

from keras_unet.errors import DataError
from pipelines.examples.items import fingerprint, list_source


class InputProcessor(input_processor.FileBasedInputProcessor):
    """TFX's search for spans and versions; fingerprints of images and labels alike."""

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        """Span (0 without one) and version.

        Raises:
            DataError: nothing matches the pattern.
        """
        try:
            return super().resolve_span_and_version()
        except ValueError as error:
            raise DataError(f"{self._input_base_uri}: no data to read: {error}") from error

    def get_input_fingerprint(self, span: int, version: int | None) -> str:
        """Changes when a file that is read changes, see `items.fingerprint`."""
        parts = []
        for split in self._splits:
            pattern = self.get_pattern_for_span_version(split.pattern, span, version)
            listing = list_source(self._input_base_uri, pattern)
            parts.append(f"split:{split.name},{fingerprint(listing.files)}")
        return "\n".join(parts)


class Driver(driver.FileBasedDriver):
    """Hands over to `InputProcessor`."""

    def get_input_processor(
        self,
        splits: Iterable[example_gen_pb2.Input.Split],
        range_config: range_config_pb2.RangeConfig | None = None,
        input_base_uri: str | None = None,
    ) -> InputProcessor:
        """The processor for the splits of an input."""
        return InputProcessor(input_base_uri, splits, range_config)
