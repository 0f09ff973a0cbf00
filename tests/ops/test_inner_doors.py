"""The doors of operators that are not public: what they are not made for is a sentence, never a wrong result."""

import pytest
import torch

from htc_fast.ops import resampled_sum, winograd
from htc_fast.ops.convolution import convolution, lateral
from htc_fast.ops.fold_images import fold_images, fold_weight
from htc_fast.ops.max_pool import max_pool
from htc_fast.ops.pad_images import pad_images

X, W, B = torch.randn(1, 16, 8, 8), torch.randn(32, 16, 3, 3), torch.randn(32)
W1, COARSE = torch.randn(32, 16, 1, 1), torch.randn(1, 32, 4, 4)
PACKED = winograd.pack(W)
MAPS = [torch.randn(1, 3, 4, 5), torch.randn(1, 3, 2, 3)]
EIGHT = torch.float8_e4m3fn
SIZES = {"stride": 1, "padding": 0, "dilation": 1}
WRONG = [
    *((winograd.pack, (one,), {}, "weight must be") for one in
      (None, W.tolist(), W.int(), W.bool(), W.to(EIGHT), W.to(torch.complex64), W.to_sparse(), W[0], W[:, :8], W[:0])),
    *((winograd.convolution, (one, PACKED, None, False), {}, "x must be") for one in
      (None, X.int(), X.half(), X.double(), X.to(EIGHT), X[0], X[:, :0])),
    *((winograd.convolution, (X, one, None, False), {}, "packed ") for one in
      (None, PACKED.int(), PACKED[:0], PACKED[1:], PACKED.to("meta"))),
    *((winograd.convolution, (X, PACKED, one, False), {}, "bias must be") for one in
      (3, B.int(), B.to(EIGHT), B[1:], B.view(4, 8))),
    (winograd.convolution, (X, PACKED, B, "no"), {}, "relu must be True or False"),
    *((resampled_sum.resampled_sum, (one, (4, 4)), {}, "map") for one in
      (None, 3, [], MAPS * 5, [None], [MAPS[0].int()], [MAPS[0].double()], [MAPS[0][0]], MAPS[0])),
    *((resampled_sum.resampled_sum, (MAPS, one), {}, "size must be") for one in (None, 4, (4,), (4, 4, 4), "44")),
    *((resampled_sum.resample, (one, (4, 4)), {}, "map") for one in (None, MAPS, MAPS[0].to(EIGHT))),
    *((pad_images, (one, 16, torch.float32), {}, "images must be") for one in
      (None, X.int(), X.bool(), X.to(EIGHT), X.to(torch.complex64), X.to_sparse(), X[0], torch.randn(1, 17, 2, 2))),
    *((pad_images, (X, one, torch.float32), {}, "channels must be") for one in
      (None, 32.0, True, "32", -1, 0, 2**40, 48)),
    *((pad_images, (X, 16, one), {}, "dtype must be one of") for one in (None, "float", torch.int32, EIGHT)),
    *((fold_images, (one, torch.float32), {}, "images must be") for one in
      (None, X.int(), X.to(EIGHT), X.to_sparse(), X, MAPS[0][0])),
    *((fold_images, (MAPS[0], one), {}, "dtype must be one of") for one in (None, "float", torch.int32, EIGHT)),
    *((fold_weight, (one,), {}, "weight must be") for one in (None, X.int(), X.to(EIGHT), W, W[0])),
    *((max_pool, (one,), {}, "x must be") for one in (None, X.int(), X.to(EIGHT), X.to_sparse(), X[0], X[:, :, :0])),
    *((lateral, (one, W1, B, COARSE), {}, "x must") for one in (None, X[0], X.int(), X[:, :8], X.to(EIGHT))),
    *((lateral, (X, one, B, COARSE), {}, "weight must") for one in (None, W, W1[0], W1.half(), W1[:, :0])),
    *((lateral, (X, W1, one, COARSE), {}, "bias ") for one in (None, B[:1], B.double())),
    *((lateral, (X, W1, B, one), {}, "(coarser|other) must") for one in
      (None, COARSE[0], COARSE[:, :1], COARSE.expand(2, -1, -1, -1), COARSE.double(), COARSE[:, :, :0])),
    *((convolution, (one, W1), {}, "x must") for one in (None, X[0], X.int(), X[:, :8])),
    *((convolution, (X, one), {}, "weight must") for one in (None, W1[0], W1.int(), W1[:0])),
    *((convolution, (X, W1, one), {}, "bias must") for one in (3, B[:1], B.double())),
    *((convolution, (X, W1, B, one), {}, "other must") for one in
      (3, COARSE, torch.randn(()), torch.randn(1, 32, 1, 1), torch.randn(3, 32, 8, 8), convolution(X, W1).double())),
    *((convolution, (X, W1), {name: bad}, f"{name} must be") for name in SIZES
      for bad in (None, 1, (1,), (1, 1, 1), (1.0, 1.0), (SIZES[name] - 1, 1), "11")),
    *((convolution, (X, W1), {"groups": bad}, "groups must be") for bad in (0, None, 1.5)),
    (convolution, (X, W1), {"groups": 3}, "weight must be .* for 3 groups"),
    (convolution, (X, W1), {"relu": "no"}, "relu must be True or False"),
]  # fmt: skip


def test_what_does_not_fit_is_a_sentence():
    for function, arguments, options, sentence in WRONG:
        with pytest.raises((TypeError, ValueError), match=sentence) as caught:
            function(*arguments, **options)
        assert "\n" not in str(caught.value), caught.value


def test_what_fits_passes():
    want = torch.nn.functional.conv2d(X, W, B, padding=1)
    assert torch.allclose(winograd.convolution(X, PACKED, B, False), want, atol=1e-4)
    assert torch.allclose(convolution(X, W, B, padding=[1, 1]), want, atol=1e-4)
    assert torch.equal(pad_images(X, 32, torch.float32)[:, :16], X)
    plain = torch.nn.functional.conv2d(X, W1, B) + COARSE.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(lateral(X, W1, B, COARSE), plain, atol=1e-5)
    assert resampled_sum.resampled_sum(MAPS, [4, 5]).shape == (1, 3, 4, 5)
