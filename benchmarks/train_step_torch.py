"""One turn of PyTorch for `train_step.py`: `python train_step_torch.py FOLDER NAME THREADS`.

NAME is "eager" or "compiled", then "float32" or "bfloat16", as in "eager-float32"; with "-forward"
after it, the forward pass alone. The network is the same as `build_unet`'s, weight for weight;
channels last, fused AdamW. Files and output as in train_step_keras.py.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_unet import UNet, read_weights


def main() -> None:
    folder, (mode, precision, *alone) = Path(sys.argv[1]), sys.argv[2].split("-")
    torch.set_num_threads(int(sys.argv[3]))
    settings = json.loads((folder / "settings.json").read_text())
    network = UNet(settings["filters"])
    read_weights(network, folder)
    network = network.to(memory_format=torch.channels_last)
    with np.load(folder / "batch.npz", allow_pickle=False) as stored:
        x = torch.from_numpy(stored["x"]).permute(0, 3, 1, 2)
        y = torch.from_numpy(stored["y"]).long()
        w = torch.from_numpy(stored["w"])
    x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    run = torch.compile(network) if mode == "compiled" else network

    def logits_of(model: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return model(x)

    def loss_of(model: nn.Module) -> torch.Tensor:
        loss = functional.cross_entropy(logits_of(model).float(), y, reduction="none")
        return (loss * w).mean()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(run)
        loss.backward()
        optimizer.step()
        float(loss)

    @torch.inference_mode()
    def forward() -> None:
        logits_of(run).float().softmax(1).numpy()

    with torch.no_grad():
        first = None if alone else float(loss_of(network))
    seconds = []
    for number in range(settings["warm"] + settings["steps"]):
        start = time.perf_counter()
        (forward if alone else step)()
        if number >= settings["warm"]:
            seconds.append(time.perf_counter() - start)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    count = sum(parameter.numel() for parameter in network.parameters())
    found = {"seconds": seconds, "loss": first, "parameters": count, "peak_bytes": peak}
    print(json.dumps(found | {"note": f"PyTorch {torch.__version__}"}))


if __name__ == "__main__":
    main()
