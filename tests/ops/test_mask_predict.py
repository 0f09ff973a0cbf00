"""mask_predict: deconvolution, ReLU and logits, of every class or of one per map."""

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import convolutions_in
from tests.ops.matrix_cases import (
    check_compile_and_export,
    check_deterministic,
    compare,
    draw,
    is_channels_last,
    on_triton,
    over_torch,
    with_dtypes,
)


def leaves(count=3, channels=32, outputs=24, classes=5, height=5, width=7):
    up = [draw(channels, outputs, 2, 2, scale=0.2), draw(outputs)]
    return [draw(count, channels, height, width), *up, draw(classes, outputs, 1, 1, scale=0.3), draw(classes)]


CASES = {
    "plain": leaves(),
    "odd channels": leaves(3, 19, 33, 6, 3, 5),
    "80 classes": leaves(2, 64, 64, 80, 7, 7),
    "one class": leaves(classes=1),
    "many classes": leaves(2, 16, 16, 150, 2, 3),
    "wide": leaves(1, 16, 150, 3, 2, 2),
    "one pixel": leaves(2, 8, 8, 3, 1, 1),
    "no maps": leaves(0),
}


@pytest.mark.parametrize("name, dtype, column", with_dtypes("mask_predict", CASES))
def test_all_classes(name, column, dtype):
    assert is_channels_last(compare(ops.mask_predict, CASES[name], column, dtype))


@pytest.mark.parametrize("name, dtype, column", with_dtypes("mask_predict", CASES))
def test_one_class(name, column, dtype):
    given = CASES[name]
    labels = torch.arange(len(given[0]), device=column.device) * 7 % len(given[4])
    out = compare(lambda *some: ops.mask_predict(*some, labels), given, column, dtype)
    assert out.shape == (len(labels), 2 * given[0].shape[2], 2 * given[0].shape[3])


@pytest.mark.parametrize("column", over_torch("mask_predict"))
def test_one_class_is_taken_from_all(column):
    given, labels = [one.to(column.device) for one in leaves(6)], torch.tensor([4, 0, 2, 2, 1, 3], device=column.device)
    with ops.use_backend(column.backend), convolutions_in("ieee"):
        everything, own = ops.mask_predict(*given), ops.mask_predict(*given, labels)
    torch.testing.assert_close(own, everything[torch.arange(6), labels], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", over_torch("mask_predict"))
def test_labels_that_are_no_class_give_zeros(column):
    labels = torch.tensor([-1, 2, 5, 1, 2**40, -(2**40)], device=column.device)
    out = compare(lambda *some: ops.mask_predict(*some, labels), leaves(6), column)
    assert [bool(one.any()) for one in out] == [False, True, False, True, False, False]


@pytest.mark.parametrize("column", on_triton("mask_predict"))
@pytest.mark.parametrize("labels", [None, torch.tensor([2, -1, 4])], ids=["all", "own"])
def test_deterministic(labels, column):
    labels = column.give(labels)
    check_deterministic(lambda *some: ops.mask_predict(*some, labels), leaves(), column)


@pytest.mark.slow
@pytest.mark.parametrize("column", over_torch("mask_predict"))
def test_compile_and_export(column):
    check_compile_and_export(ops.mask_predict, leaves(), column)
    check_compile_and_export(
        lambda *some: ops.mask_predict(*some, torch.arange(3, device=column.device)), leaves(), column
    )


def test_gradcheck():
    small = [one.double().requires_grad_() for one in leaves(2, 3, 2, 2, 2, 1)]
    assert torch.autograd.gradcheck(ops.mask_predict, small)
    assert torch.autograd.gradcheck(lambda *some: ops.mask_predict(*some, torch.tensor([1, -1])), small)


@pytest.mark.slow
@pytest.mark.parametrize("column", on_triton("mask_predict"))
def test_opcheck(column):
    given = [one.to(column.device).requires_grad_() for one in leaves(3, 8, 6, 4, 2, 3)]
    for labels in (None, torch.arange(3, device=column.device)):
        torch.library.opcheck(torch.ops.htc_fast_triton.mask_predict.default, (*given, labels))
        plain = [one.detach() for one in given]
        grad = ops.mask_predict(*plain, labels)
        torch.library.opcheck(torch.ops.htc_fast_triton.mask_predict_backward.default, (grad, *plain[:4], labels))


def test_errors():
    given = leaves()
    for labels, said in ((torch.zeros(2), r"labels must be \[3\] integers"), (torch.zeros(3), "integers")):
        with pytest.raises(ValueError, match=said):
            ops.mask_predict(*given, labels)
    with pytest.raises(ValueError, match="up_weight's 24 channels"):
        ops.mask_predict(*given[:3], given[3][:, :7], given[4])
    with pytest.raises(ValueError, match=r"up_weight must be \[C, O, 2, 2\]"):
        ops.mask_predict(given[0], given[3], *given[2:])


@pytest.mark.parametrize("gradients", [False, True])
def test_one_class_of_any_number_of_maps_is_one_trace(gradients):
    given = leaves(3, channels=8, outputs=4)
    with torch.set_grad_enabled(gradients):
        own = lambda x, labels: ops.mask_predict(x, *given[1:], labels)  # noqa: E731
        traced = torch.jit.trace(own, (given[0], torch.arange(3)), check_trace=False)
        x, labels = draw(5, 8, 5, 7), torch.tensor([0, 4, 2, -1, 1])
        torch.testing.assert_close(traced(x, labels), own(x, labels))
