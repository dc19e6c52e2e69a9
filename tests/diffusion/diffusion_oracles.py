"""Where the reference values of diffusers are, and how they are laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def oracles(shared) -> Path:
    """Folders of configurations, weights, inputs and outputs; see the README there."""
    folder = shared / "oracles" / "diffusion"
    if not folder.is_dir():
        pytest.skip(f"reference values not found at {folder}")
    return folder


def channels_last(x: np.ndarray) -> np.ndarray:
    """PyTorch's [B, C, H, W] as [B, H, W, C]; anything else as it is."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def distance(ours, reference: np.ndarray) -> float:
    """Greatest absolute difference over the reference's greatest absolute value."""
    ours = np.asarray(ours, "float64")
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
