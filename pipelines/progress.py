"""One line a component while a pipeline runs, from what TFX's local runner logs.

Also the brake that this runner lacks: where a component's inputs cannot be resolved, it marks the
component as failed and goes on with the next, which may need its success without its outputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from pipelines.trouble import PipelineError

# TFX 1.21: orchestration/local/local_dag_runner.py and orchestration/portable/launcher.py.
_BEGINS = "Component %s is running."
_ENDS = "Component %s is finished."
_CACHED = "A cached execution %d is used."
_SKIPPED = "Skipping execution for %s"
_NEW = "Going to run a new execution %d"
_UNRESOLVED = "[%s] Input resolution error: %s"


class Progress(logging.Handler):
    """Calls `say` with a line for each component that ended, and knows which one is at work.

    Raises PipelineError, through the logging call, after a component without inputs.
    """

    def __init__(self, say: Callable[[str], None], width: int = 24) -> None:
        super().__init__(logging.INFO)
        self._say, self._width, self._how = say, width, "done"
        self._since = time.monotonic()
        self.component = ""
        self._unresolved = ""

    def emit(self, record: logging.LogRecord) -> None:
        template, given = record.msg, record.args if isinstance(record.args, tuple) else ()
        if template == _BEGINS:
            self.component, self._how, self._since = str(given[0]), "done", time.monotonic()
        elif template == _CACHED:
            self._how = "cached"
        elif template == _SKIPPED:
            self._how = "skipped"
        elif template == _NEW:
            self._how = "executed"
        elif template == _UNRESOLVED:
            self._unresolved = str(given[1])
        elif template == _ENDS and self._unresolved:
            text, self._unresolved = self._unresolved, ""
            raise PipelineError(f"its inputs were not found: {text.splitlines()[0]}")
        elif template == _ENDS:
            self._line(self._how)
            self.component = ""

    def failed(self) -> None:
        """The line of the component that an error ended."""
        if self.component:
            self._line("failed")

    def _line(self, how: str) -> None:
        with suppress(OSError):  # the terminal may be gone; the run goes on
            seconds = time.monotonic() - self._since
            self._say(f"  {self.component:{self._width}}{how:10}{seconds:8.1f} s")
