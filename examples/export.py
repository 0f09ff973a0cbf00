"""What train.py left as one file that runs without our models, and how to run it; --small: for small pictures."""

import argparse

import torch

import htc_fast
from htc_fast.commands import entry
from htc_fast.inference import export_file

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SIZE = (64, 96) if options.parse_args().small else (256, 416)


def main() -> None:
    model = htc_fast.load("runs/example/model.safetensors")
    export_file(model, "runs/example/model.pt2", image_size=SIZE)

    # From here on torch and htc_fast.ops are enough.
    detect = torch.export.load("runs/example/model.pt2").module()
    device = next(model.parameters()).device
    images, image_sizes = torch.zeros(1, 3, *SIZE, device=device), torch.tensor([SIZE], device=device)
    found = detect(images, image_sizes)
    print({name: list(value.shape) for name, value in found.items()})


entry.run(main)  # a missing file is one sentence
