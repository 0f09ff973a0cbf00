"""mmcv's operators give what mmcv's own C++ gave, number by number."""

import pytest
import torch

from htc_fast.integrations.mmcv import OPERATORS
from tests.integrations.mmcv_cases import answer, recorded

CALLS = recorded()


def test_what_is_recorded():
    names = {case.operator for case, _ in CALLS}
    assert len(CALLS) == 52 and names <= set(OPERATORS)
    assert {"roi_align_backward", "nms", "softnms", "nms_match", "bbox_overlaps", "deform_conv_forward"} <= names


@pytest.mark.parametrize("case, expected", CALLS, ids=[f"{case.operator}: {case.name}" for case, _ in CALLS])
def test_operators_agree_with_mmcv(case, expected):
    found = answer(OPERATORS[case.operator], case)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        if name == "dets":  # mmcv leaves the rows after the last one as they were
            kept = len(expected["returned"])
            found[name], one = found[name][:kept], one[:kept]
        # Boxes are held in float32 here, whatever the map's type is.
        torch.testing.assert_close(found[name], one, rtol=1e-5, atol=2e-5, equal_nan=True, msg=f"{name} differs")
