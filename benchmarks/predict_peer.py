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
from torch_unet import UNet, read_weights


def main() -> None:
    folder, filters, depth, roi = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    overlap = float(sys.argv[5])
    torch.set_num_threads(int(sys.argv[6]))
    network = UNet(filters, depth, "same").eval()
    read_weights(network, folder)
    network = network.to(memory_format=torch.channels_last)
    image = torch.from_numpy(np.load(folder / "image.npy", allow_pickle=False))[None, None]

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(x), 1)

    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            found = sliding_window_inference(
                image, (roi, roi), 1, probabilities, overlap=overlap, mode="gaussian"
            )
        print(time.perf_counter() - start, flush=True)
        np.save(folder / "probabilities.npy", found[0].permute(1, 2, 0).contiguous().numpy())


if __name__ == "__main__":
    main()
