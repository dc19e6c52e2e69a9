"""`build_unet` in PyTorch, weight for weight: what the benchmarks' PyTorch contenders run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """[B, 1, H, W] to logits [B, 2, H, W]: two 3x3 convolutions a level, 2x2 up-convolutions.

    padding: "same", or "valid", which crops the skips.
    """

    def __init__(self, filters: int, depth: int = 4, padding: str = "valid") -> None:
        super().__init__()
        border = int(padding == "same")

        def pair(inside: int, out: int) -> nn.ModuleList:
            first = nn.Conv2d(inside, out, 3, padding=border)
            return nn.ModuleList([first, nn.Conv2d(out, out, 3, padding=border)])

        sizes = [filters * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(pair(a, b) for a, b in zip([1, *sizes[:-1]], sizes, strict=True))
        self.up = nn.ModuleList()
        for out in reversed(sizes[:-1]):
            self.up.append(nn.ConvTranspose2d(2 * out, out, 2, stride=2))
            self.up.append(pair(2 * out, out))
        self.logits = nn.Conv2d(filters, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, convolutions in enumerate(self.down):
            if level:
                skips.append(x)
                x = functional.max_pool2d(x, 2)
            for convolution in convolutions:
                x = functional.relu(convolution(x))
        for transpose, convolutions in zip(self.up[::2], self.up[1::2], strict=True):
            x, skip = transpose(x), skips.pop()
            cut = (skip.shape[-1] - x.shape[-1]) // 2
            if cut:
                skip = skip[:, :, cut:-cut, cut:-cut]
            x = torch.cat([skip, x], 1)
            for convolution in convolutions:
                x = functional.relu(convolution(x))
        return self.logits(x)


def read_weights(network: nn.Module, folder: Path) -> None:
    """From FOLDER/weights.npz; Keras has (h, w, in, out), and (h, w, out, in) going up."""
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        arrays = [stored[name] for name in sorted(stored.files, key=int)]
    parameters = list(network.parameters())
    with torch.no_grad():
        for parameter, array in zip(parameters, arrays, strict=True):
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(turned)))
