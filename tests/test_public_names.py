"""Public names: each is listed once, is there, and costs nothing until it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_unet

ROOT = Path(keras_unet.__file__).parent
PACKAGES = [
    ".".join(["keras_unet", *stub.parent.relative_to(ROOT).parts])
    for stub in sorted(ROOT.rglob("__init__.pyi"))
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there(package):
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_packages_are_imported_without_their_parts():
    code = f"import sys, {', '.join(PACKAGES)}\n"
    code += "assert not {'keras', 'numpy', 'pydantic', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
