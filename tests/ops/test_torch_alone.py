"""The operators need torch and nothing else: in a process where whatever else the package uses cannot be imported."""

import subprocess
import sys

ABSENT = ("numpy", "pycocotools", "torchvision", "timm", "triton", "PIL")
ALONE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import torch
from htc_fast import ops
boxes, scores = torch.tensor([[0.0, 0, 8, 8], [1, 1, 8, 8], [20, 20, 30, 30]]), torch.tensor([0.5, 0.9, 0.7])
idxs = torch.zeros(3, dtype=torch.int64)
for backend in ("cpp", "reference"):
    with ops.use_backend(backend):
        print(backend, ops.nms(boxes, scores, 0.5).tolist(), ops.soft_nms(boxes, scores, idxs)[0].tolist())
        print(ops.roi_align(torch.arange(16.0).view(1, 1, 4, 4), [boxes[:1] / 2], 1).tolist())
print(ops.encode_masks(torch.ones(1, 2, 2), torch.tensor([[0.0, 0, 2, 2]]), (4, 4))[0]["counts"].decode())
with ops.use_backend("reference"):
    try:
        ops.encode_masks(torch.ones(1, 2, 2), boxes[:1], (4, 4))
    except ModuleNotFoundError as error:
        print(error)
print(*(name for name in {ABSENT} if name in sys.modules))
"""
WANTED = """\
cpp [1, 2] [1, 2, 0]
[[[[9.375]]]]
reference [1, 2] [1, 2, 0]
[[[[9.375]]]]
02208
No module named 'numpy'

"""


def test_the_operators_need_torch_alone():
    command = [sys.executable, "-W", "ignore", "-c", ALONE]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert result.returncode == 0 and result.stdout == WANTED, result.stdout + result.stderr
