"""mmdetection's recorded masks and semantic feature through the Triton kernels, interpreted where there is no GPU."""

import pytest
import torch

from htc_fast import ops
from tests import golden

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FEW = 2  # detections: the interpreter is slow


@torch.no_grad()
def test_mask_branch_and_semantic_merge(tmp_path):
    model = golden.model(tmp_path).eval().to(DEVICE)
    expected = {name: torch.as_tensor(one).to(DEVICE) for name, one in golden.arrays("expected").items()}
    features = model.extract(golden.images(model.config).to(DEVICE))
    merged, (semantic, _) = model.semantic_head.merge(features), model.semantic(features, logits=False)
    rois = torch.cat([torch.zeros(FEW, 1, device=DEVICE), expected["det_boxes"][:FEW]], dim=1)
    x = model.mask_features(features, semantic, rois)
    with ops.use_backend("triton"):
        again = model.semantic_head.merge(features)
        masks = ops.mask_branch(x, expected["det_labels"][:FEW], [head.weights() for head in model.mask_heads])
    # On a GPU TF32 rounds coarser.
    assert (again - merged).abs().max() <= (2e-3 if DEVICE == "cuda" else 1e-4) * merged.abs().max()
    wanted = torch.stack([expected[f"mask_logits_stage{t}"][:FEW].float().sigmoid() for t in range(3)]).mean(dim=0)
    assert (masks - wanted).abs().max() < 2e-3 and masks.std() > 0.1
