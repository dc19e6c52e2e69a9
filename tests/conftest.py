"""Shared fixtures: where the real data and the oracles are, and quiet TensorFlow logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference values, which are not part of this project."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("KERAS_UNET_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set KERAS_UNET_SHARED")
    return folder
