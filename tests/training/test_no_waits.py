"""`losses` and `detect` on a GPU that is not there: tensors without values stop whatever looks at one."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from htc_fast.criterion.losses import losses
from htc_fast.models.structures import Targets
from tests.models.test_zoo import tiny

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA device, not even by name")


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="cuda")


def on_a_gpu(model):
    """The same model, its tensors on a device that only the fake mode knows."""
    for module in model.modules():
        for name, one in list(module._parameters.items()):
            if one is not None:
                module._parameters[name] = torch.nn.Parameter(empty(*one.shape), one.requires_grad)
        for name, one in list(module._buffers.items()):
            if one is not None:
                module._buffers[name] = empty(*one.shape, dtype=one.dtype)
    return model


@pytest.mark.parametrize("name", ["htc_r50", "htc_r50_ga", "cascade_mask_r50", "mask_rcnn_r50_interleaved"])
def test_nothing_waits(name):
    model = tiny(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_a_gpu(model)
        images, sizes = empty(2, 3, 64, 96), empty(2, 2, dtype=torch.int64)
        found = model.eval().detect(images, sizes)
        assert found.boxes.shape == (2, 8, 4) and found.masks.device.type == "cuda"
        labels, masks = empty(2, 4, dtype=torch.int64), empty(2, 4, 64, 96, dtype=torch.uint8)
        targets = Targets(empty(2, 4, 4), labels, masks, empty(2, 8, 12, dtype=torch.int64))
        maps = empty(2, 2, 64, 96, dtype=torch.int16)
        layered = Targets(targets.boxes, labels, maps, targets.semantic, numbers=labels, layers=labels)
        for given in (targets, layered):
            terms = losses(model.train(), images, sizes, given)
            assert {one.device.type for one in terms.values()} == {"cuda"}
            assert all(one.dim() == 0 for one in terms.values())


def test_the_check_sees_a_wait():
    with FakeTensorMode():
        with pytest.raises(DataDependentOutputException):
            empty(3).sum().item()
        with pytest.raises(DynamicOutputShapeException):
            empty(3)[empty(3) > 0]
