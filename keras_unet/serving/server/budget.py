"""How many bytes of requests the server holds at once."""

from __future__ import annotations

import threading

from keras_unet.serving.server.codes import Code, Refused, too_large


class Budget:
    """Counts bytes that are held; refuses what would be too much. Thread-safe."""

    def __init__(self, request_bytes: int, held_bytes: int) -> None:
        self.each = request_bytes
        self._all = held_bytes
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def fits(self, size: int) -> None:
        """Raises Refused if one request is larger than any may be."""
        if size > self.each:
            raise too_large(f"a request of {size} bytes; at most {self.each} are accepted")

    def take(self, size: int) -> None:
        """Counts `size` more bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED, as all requests together hold too much.
        """
        with self._lock:
            if self._held + size > self._all:
                raise Refused(
                    Code.RESOURCE_EXHAUSTED,
                    f"requests hold {self._held} of {self._all} bytes; try later",
                )
            self._held += size

    def give(self, size: int) -> None:
        """Counts them off again."""
        with self._lock:
            self._held -= size
