"""The sum that `semantic_merge` ends in on a CPU, beside torch's resampling."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops import resampled_sum

SIZE = 7, 9
# Channels: a part of a vector, some vectors and a rest, the four vectors that a thread sums at once, more.
CHANNELS = [1, 19, 64, 83]
SIDES = (7, 9), (3, 4), (14, 17), (1, 1), (7, 5), (20, 2), (2, 30), (1, 9)


def maps(channels, dtype=torch.float32, images=2):
    torch.manual_seed(channels)
    return [torch.randn(images, channels, *side).to(dtype) for side in SIDES]


def plain(given, relu=True):
    sized = [F.interpolate(one, size=SIZE, mode="bilinear", align_corners=True) for one in given]
    return sum(one.relu() if relu else one for one in sized)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sum_and_its_gradient(channels, layout, dtype):
    given = [one.contiguous(memory_format=layout).requires_grad_() for one in maps(channels, dtype)]
    exact = [one.detach().double().requires_grad_() for one in given]
    out, wanted = resampled_sum.resampled_sum(given, SIZE), plain(exact)
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    atol = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), wanted, rtol=atol, atol=atol)
    found, expected = torch.autograd.grad(out, given, grad), torch.autograd.grad(wanted, exact, grad.double())
    for one, other in zip(found, expected):
        # Where a sum of four corners is zero but for rounding, a ReLU may open or close.
        wrong = ~torch.isclose(one.double(), other, rtol=atol, atol=atol)
        assert one.dtype == dtype and wrong.double().mean() < (1e-9 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("size", SIDES)
def test_resample_and_its_gradient(size):
    source = maps(19)[2].requires_grad_()
    out = resampled_sum.resample(source, size)
    wanted = F.interpolate(source, size=size, mode="bilinear", align_corners=True)
    grad = torch.randn_like(wanted)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    found, expected = (torch.autograd.grad(one, source, grad)[0] for one in (out, wanted))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounds_once_and_as_torch_does(dtype):
    ends = torch.arange(65536).to(torch.int16).view(dtype).reshape(1, 32, 1024, 2)
    middle = resampled_sum.resample(ends, (1024, 3))[..., 1]
    wanted = (ends[..., 0].float() * 0.5 + ends[..., 1].float() * 0.5).to(dtype)
    known = ends.isfinite().all(dim=3)
    assert torch.equal(middle[known], wanted[known]) and known.float().mean() > 0.9
    assert middle[ends.isnan().any(dim=3)].isnan().all()


def test_threads_do_not_change_a_bit():
    given, threads, found = [one.requires_grad_() for one in maps(83)], torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            out = resampled_sum.resampled_sum(given, SIZE)
            found.append((out, *torch.autograd.grad(out.square().sum(), given)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found))


def test_no_images_no_channels():
    for given in (maps(5, images=0), [one[:, :0] for one in maps(5)]):
        out = resampled_sum.resampled_sum([one.requires_grad_() for one in given], SIZE)
        assert out.shape[2:] == SIZE and not out.numel()
        assert [one.shape for one in torch.autograd.grad(out.sum(), given)] == [one.shape for one in given]


def test_opcheck():
    given = [one.requires_grad_() for one in maps(5)[:3]]
    assert torch.library.opcheck(torch.ops.htc_fast.resampled_sum.default, (given, *SIZE, True, True))
    kept = torch.ops.htc_fast.resampled_sum(given, *SIZE, True, True)[1]
    inputs = torch.randn(2, 5, *SIZE), kept, [3, 2], [4, 20]
    assert torch.library.opcheck(torch.ops.htc_fast.resampled_sum_backward.default, inputs)


def test_sizes_that_are_not_known_when_traced():
    dim = torch.export.Dim("height", min=2, max=64)

    class Module(torch.nn.Module):
        def forward(self, one, other):
            return resampled_sum.resampled_sum([one, other], other.shape[2:])

    given = maps(5)
    exported = torch.export.export(Module(), (given[1], given[0]), dynamic_shapes={"one": None, "other": {2: dim}})
    out = exported.module()(given[1], given[0][:, :, :5])
    torch.testing.assert_close(out, resampled_sum.resampled_sum([given[1], given[0][:, :, :5]], (5, 9)))


def test_errors():
    given = maps(5)
    for some, said in (
        ([given[0], given[1][:1]], "all of one type"),
        ([given[0], given[1].half()], "all of one type"),
        ([given[0], given[1][:, :, :0]], "none empty"),
        (given + given[:1], "1 to 8"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=said):
            resampled_sum.resampled_sum(some, SIZE)
    out = torch.ops.htc_fast.resampled_sum([given[0].requires_grad_()], *SIZE, True, False)[0]
    with pytest.raises(RuntimeError, match="without keep"):
        out.sum().backward()
