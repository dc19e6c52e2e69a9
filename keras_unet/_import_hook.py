"""Something to be done around the import of another package, whenever that import comes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def around_import(name: str, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """The top-level module `name`, not imported yet, is run within `context()`.

    Who only looks for it (`importlib.util.find_spec`) finds it as before. An import that fails may
    be tried again, with the context around it.
    """
    sys.meta_path.insert(0, _Finder(name, context))


class _Finder(MetaPathFinder):
    """Finds the module as Python would, and goes once it was imported."""

    def __init__(self, name: str, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._context = name, context

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with self._context():
                    run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
