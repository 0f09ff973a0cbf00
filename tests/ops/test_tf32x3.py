"""RoIAlign's float32 gradient in Triton, multiplied as tensor cores do: the interpreter by itself multiplies exactly.

A float32 is split into two TF32 numbers; three of the four products are summed, eight at a time, towards zero.
"""

import numpy as np
import pytest
import torch

from tests.ops.backends import INTERPRETED, columns
from tests.ops.roi_cases import SMALL, TOLERANCE, Inputs
from tests.ops.test_roi_align import close

pytest.importorskip("triton")
from triton._C.libtriton.ir import INPUT_PRECISION
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

pytestmark = [*columns("multi_level_roi_align", (INTERPRETED,))[0].marks,
              pytest.mark.filterwarnings("ignore:invalid value")]  # fmt: skip
NAMES = ["small_outside", "small_fixed", "small_sparse", "small_every_border", "small_two_blocks"]


def to_tf32(values: np.ndarray) -> np.ndarray:
    """Rounded to ten bits of mantissa, halves away from zero, as cvt.rna.tf32.f32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64) + 0x1000
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)


def towards_zero(exact: np.ndarray) -> np.ndarray:
    rounded = exact.astype(np.float32)
    return np.where(np.abs(rounded.astype(np.float64)) > np.abs(exact), np.nextafter(rounded, np.float32(0)), rounded)


def product(left: np.ndarray, right: np.ndarray, total: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    for k in range(0, left.shape[1], 8):
        total = towards_zero(left[:, k : k + 8] @ right[k : k + 8] + total.astype(np.float64))
    return total


def tensor_cores(builder, left, right, total, precision, _) -> TensorHandle:
    """In the place of the interpreter's product."""
    assert left.data.dtype == right.data.dtype == np.float32
    one, other = to_tf32(left.data), to_tf32(right.data)
    found = np.zeros_like(total.data)
    if precision == INPUT_PRECISION.TF32x3:
        found = product(to_tf32(left.data - one), other, found)
        found = product(one, to_tf32(right.data - other), found)
    return TensorHandle((product(one, other, found) + total.data).astype(np.float32), total.dtype.scalar)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_stays_within_the_tolerance(name, monkeypatch):
    inputs = Inputs(SMALL[name])
    wanted = inputs.expected()[1]
    monkeypatch.setattr(InterpreterBuilder, "create_dot", tensor_cores)
    for grad, expected in zip(inputs.run(INTERPRETED)[1], wanted, strict=True):
        close(grad, expected, TOLERANCE[torch.float32] / 5)  # the rest is for sums in another order


def test_a_single_product_would_not(monkeypatch):
    inputs = Inputs(SMALL["small_fixed"])
    wanted = inputs.expected()[1]
    once = lambda *given: tensor_cores(*given[:4], INPUT_PRECISION.TF32, None)  # noqa: E731
    monkeypatch.setattr(InterpreterBuilder, "create_dot", once)
    with pytest.raises(AssertionError):
        close(inputs.run(INTERPRETED)[1][0], wanted[0], TOLERANCE[torch.float32])
