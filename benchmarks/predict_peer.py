"""MONAI's `sliding_window_inference` with the same network in PyTorch, in a process of its own.

`python predict_peer.py FOLDER FILTERS DEPTH ROI OVERLAP THREADS` reads `weights.npz` (the Keras
network's arrays in order) and `image.npy` there; for each line on standard input it predicts once
and answers with the seconds it took; the last result lies in `probabilities.npy`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """`build_unet(padding="same")`: two 3x3 convolutions a level, 2x2 up-convolutions."""

    def __init__(self, filters: int, depth: int) -> None:
        super().__init__()

        def pair(inside: int, out: int) -> nn.ModuleList:
            return nn.ModuleList(
                [nn.Conv2d(inside, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)]
            )

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
            x = torch.cat([skips.pop(), transpose(x)], 1)
            for convolution in convolutions:
                x = functional.relu(convolution(x))
        return torch.softmax(self.logits(x), 1)


def main() -> None:
    folder, filters, depth, roi = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    overlap = float(sys.argv[5])
    torch.set_num_threads(int(sys.argv[6]))
    network = UNet(filters, depth).eval()
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        arrays = [stored[name] for name in sorted(stored.files, key=int)]
    parameters = list(network.parameters())
    assert len(arrays) == len(parameters)
    with torch.no_grad():
        for parameter, array in zip(parameters, arrays, strict=True):
            # Keras: (h, w, in, out), and (h, w, out, in) for up-convolutions.
            parameter.copy_(
                torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
            )
    network = network.to(memory_format=torch.channels_last)
    image = torch.from_numpy(np.load(folder / "image.npy", allow_pickle=False))[None, None]
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            found = sliding_window_inference(
                image, (roi, roi), 1, network, overlap=overlap, mode="gaussian"
            )
        print(time.perf_counter() - start, flush=True)
        np.save(folder / "probabilities.npy", found[0].permute(1, 2, 0).contiguous().numpy())


if __name__ == "__main__":
    main()
