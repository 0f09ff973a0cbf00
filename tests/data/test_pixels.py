"""Arrays and tensors as programs hold them: the right pixels, or one sentence."""

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.data import load_image, pixels, preprocess
from htc_fast.data.pictures import list_pictures
from htc_fast.errors import say_once

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
PIXELS[0, 0] = 255  # so that every depth is in use
GREY = PIXELS[..., 0]
REPEATED = np.repeat(GREY[..., None], 3, axis=2)


@pytest.fixture(autouse=True)
def nothing_said():
    pixels._said[:] = bytes(len(pixels.REMARKS))
    say_once.cache_clear()


def read_only():
    array = PIXELS.copy()
    array.flags.writeable = False
    return array


TAKEN = {
    "BGR turned round": PIXELS[..., ::-1][..., ::-1],
    "upside down, turned back": PIXELS[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray(PIXELS),
    "read-only": read_only(),
    "a part of a larger one": np.pad(PIXELS, ((1, 1), (2, 2), (0, 0)))[1:-1, 2:-2],
    "every second": PIXELS.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2],
    "RGBA": np.dstack([PIXELS, np.full((6, 5), 255, np.uint8)]),
    "channels first": PIXELS.transpose(2, 0, 1),
    "floats to 1": PIXELS / 255,
    "float16 to 1": (PIXELS / 255).astype(np.float16),
    "floats to 255": PIXELS.astype(np.float32),
    "int64": PIXELS.astype(np.int64),
    "uint16, 8 bits": PIXELS.astype(np.uint16),
    "uint16, 12 bits": PIXELS.astype(np.uint16) * 16 + 3,
    "uint16, 16 bits": PIXELS.astype(np.uint16) * 256 + 99,
    "highest byte first": (PIXELS.astype(">u2") * 16),
    "objects": PIXELS.astype(object),
    "masked, nothing hidden": np.ma.masked_array(PIXELS, mask=False),
    "tensor": torch.from_numpy(PIXELS.copy()),
    "tensor, channels first": torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
    "tensor, floats": torch.from_numpy(PIXELS / 255).permute(2, 0, 1).requires_grad_(),
    "tensor, bfloat16": torch.from_numpy(PIXELS.astype(np.float32)).permute(2, 0, 1).bfloat16(),
    "tensor, RGBA": torch.cat([torch.from_numpy(PIXELS.copy()).permute(2, 0, 1), torch.full((1, 6, 5), 255)]),
}


@pytest.mark.parametrize("array", TAKEN.values(), ids=TAKEN)
def test_layouts_and_types(array):
    found = load_image(array)
    assert found.dtype == np.uint8 and found.shape == (6, 5, 3) and found.flags.c_contiguous
    assert np.abs(found.astype(int) - PIXELS).max() <= 1


GREYS = {
    "[H, W]": GREY,
    "[H, W, 1]": GREY[..., None],
    "[1, H, W]": GREY[None],
    "matrix": GREY.view(np.matrix),
    "tensor": torch.from_numpy(GREY.copy()),
    "tensor [1, H, W]": torch.from_numpy(GREY.copy())[None],
}


@pytest.mark.parametrize("array", GREYS.values(), ids=GREYS)
def test_grey(array):
    assert np.array_equal(load_image(array), REPEATED)


def test_truth_and_single_pixels(tmp_path):
    assert load_image(np.eye(4, dtype=bool))[:2, :2, 0].tolist() == [[255, 0], [0, 255]]
    assert load_image(np.full((1, 1), 7, np.uint8)).tolist() == [[[7, 7, 7]]]
    assert load_image(np.array([[[7, 8, 9]]], np.uint8)).tolist() == [[[7, 8, 9]]]
    assert load_image(torch.tensor([[[7]], [[8]], [[9]]], dtype=torch.uint8)).tolist() == [[[7, 8, 9]]]
    PIXELS.tofile(tmp_path / "a.raw")
    assert np.array_equal(load_image(np.memmap(tmp_path / "a.raw", np.uint8, "r", shape=PIXELS.shape)), PIXELS)


REFUSED = {
    "two channels": (np.zeros((6, 5, 2), np.uint8), r"\[6, 5, 2\].*leave the alpha channel out"),
    "five channels": (np.zeros((6, 5, 5), np.uint8), r"\[6, 5, 5\]: expected pixels \[H, W, 3\]"),
    "an empty side": (np.zeros((0, 5, 3), np.uint8), "no empty side"),
    "an empty grey": (np.zeros((0, 5), np.uint8), "no empty side"),
    "a row": (np.zeros(5, np.uint8), r"is \[5\]: expected"),
    "a number": (np.uint8(5), "expected pixels"),
    "several": (np.zeros((2, 6, 5, 3), np.uint8), r"several pictures.*array\[0\]"),
    "normalised": ((PIXELS / 127.5 - 1), "float64 from -1 to 1: expected uint8.*undo a normalisation"),
    "NaN": (np.full((6, 5), np.nan), "from nan to nan"),
    "infinite": (np.full((6, 5), np.inf), "from inf to inf"),
    "neither scale": (PIXELS / 200, "neither from 0 to 1 nor from 0 to 255"),
    "beyond 255 by cubics": (np.float32([[0, 255, 256]]), "from 0 to 256, neither from 0 to 1 nor from 0 to 255: clip"),
    "int8 below 0": (PIXELS.astype(np.int8), "int8 from -"),
    "beyond 16 bits": (PIXELS.astype(np.int64) << 10, "int64 from .* to 261120"),
    "complex": (PIXELS * 1j, "holds complex128"),
    "text": (np.array([["a", "b"]]), "holds <U1"),
    "objects": (np.array([[None, {}]]), "holds object"),
    "masked": (np.ma.masked_array(PIXELS, mask=PIXELS > 9), r"masked and hides values.*\.filled\(0\)"),
    "two readings": (torch.zeros(3, 5, 3, dtype=torch.uint8), "channels first or last"),
    "without values": (torch.zeros(3, 6, 5, device="meta"), "no values to read"),
    "None": (None, "got NoneType"),
    "number": (5, "got int 5"),
    "list": ([[1, 2], [3, 4]], r"got list: make numbers one array with np\.asarray"),
    "dict": ({"a": PIXELS}, "got dict: give predict"),
}


@pytest.mark.parametrize("source, sentence", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_understood_is_one_sentence(source, sentence):
    with pytest.raises(UserError, match=sentence):
        load_image(source)


def test_what_is_read_in_a_special_way_is_said_once(capsys):
    for array in (PIXELS / 255, PIXELS / 255, PIXELS.astype(np.uint16) * 16, PIXELS.astype(float)):
        load_image(array)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "1 is taken for white" in said[0] and "12-bit" in said[1] and "255 is taken" in said[2]
    load_image(np.dstack([PIXELS, GREY]))
    assert "transparent" in capsys.readouterr().err


def test_a_batch_has_one_scale():
    dark = np.stack([PIXELS.astype(float), np.ones_like(PIXELS)])
    assert load_image(dark[1]).max() == 255
    found = list_pictures(dark)
    assert np.array_equal(found[0], PIXELS) and (found[1] == 1).all(), "as bright as beside the other"
    tensors = list_pictures(torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)[None].expand(2, 3, 6, 5))
    assert len(tensors) == 2 and np.array_equal(tensors[1], PIXELS)


def test_lists_of_pictures(tmp_path):
    assert list_pictures(PIXELS)[0] is PIXELS and list_pictures("a.jpg") == ["a.jpg"]
    assert list_pictures(tmp_path) == [tmp_path] and list_pictures(b"png") == [b"png"] and list_pictures([]) == []
    assert list_pictures(("a", "b")) == list_pictures(iter(["a", "b"])) == ["a", "b"]
    assert list_pictures(np.array(["a", "b"])) == ["a", "b"] == list_pictures(name for name in "ab")
    uneven = np.empty(2, object)
    uneven[:] = [PIXELS, GREY]
    assert [load_image(one).shape for one in list_pictures(uneven)] == [(6, 5, 3), (6, 5, 3)]
    for wrong in (None, 5, {"a": "b"}, {"a", "b"}):
        with pytest.raises(UserError, match="or a list of such, got"):
            list_pictures(wrong)


def test_preprocess_takes_the_same():
    want = preprocess([PIXELS], (32, 64))[0]
    for images in ([PIXELS[..., ::-1][..., ::-1]], PIXELS, PIXELS[None], torch.from_numpy(PIXELS.copy())):
        assert torch.equal(preprocess(images, (32, 64))[0], want)
    with pytest.raises(UserError, match="no pictures"):
        preprocess([])
