"""mmdetection's HTC R-50 with made-up weights: rebuilt from their description, beside its recorded outputs."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from htc_fast.detector import Detector, create_model
from htc_fast.models.weights.load import load_weights

FOLDER = Path(__file__).parent / "fixtures" / "golden" / "htc_r50_256x320"


def state_dict() -> dict[str, torch.Tensor]:
    """The 426 entries of the mmdetection checkpoint."""
    described = json.loads((FOLDER / "weights.json").read_text())
    state = {}
    for name, entry in described["tensors"].items():
        value = np.zeros(entry["shape"], dtype=np.float32)
        for source, factor in entry["parts"]:
            generator = np.random.RandomState(zlib.crc32(f"{source}:{described['seed']}".encode()))
            value += np.float32(factor) * generator.standard_normal(entry["shape"]).astype(np.float32)
        state[name] = torch.from_numpy(value)
    with np.load(FOLDER / "small.npz") as small:
        state.update({name: torch.from_numpy(small[name]) for name in small.files})
    return state


@functools.cache
def weights_file(folder: Path) -> Path:
    path = folder / "golden.pth"
    torch.save({"meta": {"CLASSES": None}, "state_dict": state_dict()}, path)
    return path


def model(folder: Path, **overrides) -> Detector:
    """The detector, its weights read from an mmdetection file."""
    made = create_model("htc_r50", **overrides)
    report = load_weights(made, weights_file(folder))
    assert str(report) == "every tensor fitted"
    return made


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def images(config) -> torch.Tensor:
    """The recorded picture, normalised: [1, 3, 256, 320]."""
    picture = arrays("expected")["image_bgr_u8"].flip(2).float()
    return ((picture - torch.tensor(config.mean)) / torch.tensor(config.std)).permute(2, 0, 1)[None]
