"""mmdetection's recorded masks and semantic feature through the Triton kernels, interpreted where there is no GPU."""

import pytest
import torch

from htc_fast import ops
from tests import golden

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter is slow: one detection, and the upper left part of the feature maps.
FEW, PART = 1, 4


@pytest.mark.slow
@torch.no_grad()
def test_mask_branch_and_semantic_merge(tmp_path):
    model = golden.model(tmp_path).eval().to(DEVICE)
    expected = {name: torch.as_tensor(one).to(DEVICE) for name, one in golden.arrays("expected").items()}
    features = model.extract(golden.images(model.config).to(DEVICE))
    semantic, _ = model.semantic(features, logits=False)
    part = [one[:, :, : max(1, one.shape[2] // PART), : max(1, one.shape[3] // PART)] for one in features]
    merged = model.semantic_head.merge(part)
    rois = torch.cat([torch.zeros(FEW, 1, device=DEVICE), expected["det_boxes"][:FEW]], dim=1)
    x = model.mask_features(features, semantic, rois)
    with ops.use_backend("triton"):
        again = model.semantic_head.merge(part)
        masks = ops.mask_branch(x, expected["det_labels"][:FEW], [head.weights() for head in model.mask_heads])
    # On a GPU TF32 rounds coarser.
    assert (again - merged).abs().max() <= (2e-3 if DEVICE == "cuda" else 1e-4) * merged.abs().max()
    wanted = torch.stack([expected[f"mask_logits_stage{t}"][:FEW].float().sigmoid() for t in range(3)]).mean(dim=0)
    assert (masks - wanted).abs().max() < 2e-3 and masks.std() > 0.1
