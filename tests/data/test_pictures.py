"""Picture files as cameras, scanners and converters write them: the right values, or one sentence."""

import io
import os
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from htc_fast import UserError
from htc_fast.data import decode, load_image, pixels
from htc_fast.data.formats import SUFFIXES, pictures_in
from htc_fast.errors import say_once
from tests.data import raw

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint16).reshape(3, 4, 3)


@pytest.fixture(autouse=True)
def nothing_said():
    pixels._said[:] = bytes(len(pixels.REMARKS))
    say_once.cache_clear()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_grey_is_scaled_by_its_depth_and_said_once(tmp_path, capsys, form, depth):
    # Nearly white in each depth; wide enough for JPEG 2000's levels.
    values = np.full((32, 32), (1 << depth) - 1 - (1 << depth) // 64, np.uint16)
    values[:16] = (1 << depth) // 2
    Image.fromarray(values).save(
        tmp_path / f"a{depth}.{form}", form, **({"irreversible": False} if "2" in form else {})
    )
    found = load_image(tmp_path / f"a{depth}.{form}")
    assert found[0, 0].tolist() == [128] * 3 and found[-1, -1].tolist() == [251] * 3
    assert load_image(tmp_path / f"a{depth}.{form}").shape == (32, 32, 3)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"a{depth}.{form}" in said and f"read as {depth}-bit data" in said


def test_a_bright_pixel_changes_nothing_within_a_depth(tmp_path):
    found = []
    for number, bright in enumerate((2100, 4095)):
        values = np.full((4, 4), 2048, np.uint16)
        values[0, 0] = bright
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        found.append(load_image(tmp_path / f"{number}.png"))
    assert found[0][1, 1, 0] == found[1][1, 1, 0] == 128 and found[1][0, 0, 0] == 255


def test_another_depth_is_said_too(tmp_path, capsys):
    for depth in (10, 12, 10):
        Image.fromarray(np.full((4, 4), (1 << depth) - 1, np.uint16)).save(tmp_path / f"{depth}.png")
        assert load_image(tmp_path / f"{depth}.png").max() == 255
    said = capsys.readouterr().err
    assert said.count("read as 10-bit") == said.count("read as 12-bit") == 1 and "another depth" in said


WHITE = (15 * RAMP) << 4  # 12 bits in use
FILES = {
    "white is 0, 16 bits": (raw.tiff(WHITE.astype("<u2"), photometric=0), 255 - 15 * RAMP),
    "white is 0, 8 bits": (raw.tiff((15 * RAMP).astype("u1"), photometric=0), 255 - 15 * RAMP),
    "32 bits": (raw.tiff(WHITE.astype("<i4")), 15 * RAMP),
    "floats to 1": (raw.tiff((RAMP / 11).astype("<f4")), np.rint(RAMP / 11 * 255)),
    "floats to 255": (raw.tiff((20 * RAMP + 0.4).astype("<f4")), 20 * RAMP),
    "floats of 12 bits": (raw.tiff(WHITE.astype("<f4")), 15 * RAMP),
    "grey and something": (raw.tiff(np.stack([RAMP, 99 + RAMP], 2).astype("u1"), extra=[0]), RAMP),
    "PNG, RGB, 16 bits": (raw.png(COLOUR * 1800, raw.RGB), (COLOUR * 1800) >> 8),
    "PNG, RGB, 12 bits": (raw.png(COLOUR * 112, raw.RGB), (COLOUR * 112) >> 4),
    "PNG, RGB, 8 bits in 16": (raw.png(COLOUR * 7, raw.RGB), COLOUR * 7),
    "PNG, RGBA, 12 bits": (raw.png(np.dstack([COLOUR * 112, RAMP * 5000]), raw.RGBA), (COLOUR * 112) >> 4),
    "PNG, grey and alpha": (raw.png(np.dstack([WHITE << 4, RAMP * 5000]), raw.GREY_ALPHA), 15 * RAMP),
    "TIFF, RGB, 12 bits": (raw.tiff((COLOUR * 112).astype("<u2"), photometric=2), (COLOUR * 112) >> 4),
    "TIFF, RGB, 12 bits, packed": (raw.tiff((COLOUR * 112).astype("<u2"), 2, packed=True), (COLOUR * 112) >> 4),
    "TIFF, RGB, 16 bits": (raw.tiff((COLOUR * 1800).astype("<u2"), photometric=2), (COLOUR * 1800) >> 8),
    "PGM of 12 bits": (b"P5 4 3 4095\n" + (WHITE // 4).astype(">u2").tobytes(), 15 * RAMP // 4),
    "PGM of 16 bits": (b"P5 4 3 65535\n" + WHITE.astype(">u2").tobytes(), 15 * RAMP),
    "PPM of 12 bits": (b"P6 4 3 4095\n" + (COLOUR * 16).astype(">u2").tobytes(), COLOUR),
    "PFM": (b"Pf 4 3 -1.0\n" + (RAMP[::-1] / 11).astype("<f4").tobytes(), np.rint(RAMP / 11 * 255)),
}


@pytest.mark.parametrize("file, want", FILES.values(), ids=FILES)
def test_depths_and_containers(file, want):
    found = load_image(file)
    want = want if want.ndim == 3 else np.repeat(want[..., None], 3, axis=2)
    assert found.dtype == np.uint8 and found.shape == (3, 4, 3)
    assert np.abs(found.astype(int) - want.astype(int)).max() <= 1


REFUSED = {
    "below 0": (raw.tiff(-3 * RAMP.astype("<i2")), "int32 from -33 to 0: expected uint8"),
    "beyond 16 bits": (raw.tiff(RAMP.astype("<i4") * 30000), "from 0 to 330000"),
    "NaN": (raw.tiff((RAMP * np.nan).astype("<f4")), "from nan to nan"),
    "infinite": (raw.tiff((1 / RAMP.clip(1) * np.inf).astype("<f4")), "inf"),
    "floats to 1.4": (raw.tiff((RAMP / 8).astype("<f4")), "neither from 0 to 1 nor"),
    "grey and alpha of 12 bits": (raw.png(np.dstack([WHITE, RAMP * 5000]), raw.GREY_ALPHA), "fewer than 15 of them"),
    "RGB TIFF in planes": (
        raw.tiff((COLOUR * 1800).astype("<u2"), photometric=2, planar=2),
        "one plane after the other",
    ),
    "five channels": (raw.tiff(np.zeros((3, 4, 5), "u1"), extra=[0] * 4), "a TIFF that is truncated, or of channels"),
    "64-bit floats": (raw.tiff((RAMP / 11).astype("<f8")), "a TIFF that is truncated, or of channels"),
    "PPM of 16 bits, dark": (b"P6 4 3 65535\n" + (COLOUR * 100).astype(">u2").tobytes(), "fewer than 15 of them"),
    "a pixel count beyond all": (
        raw.png(COLOUR, raw.RGB, (100_000, 100_000)),
        "100000 x 100000, 10,000,000,000 pixels and beyond.*tiles",
    ),
    "a header alone": (raw.png(COLOUR, raw.RGB, (12_000, 12_000))[:60], "truncated"),
    "half a JPEG": (raw.encode(Image.effect_noise((64, 64), 50), "JPEG")[:900], "cannot be read .*truncated"),
    "empty": (b"", "is empty"),
    "text": (b"hello", "is text and not a picture"),
    "web page": (b"\n<!DOCTYPE html><p>404", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "PDF": (b"%PDF-1.4", "is a PDF.*convert it"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript.*convert it"),
    "SVG": (b"<?xml version='1.0'?><svg></svg>", "is SVG.*convert it"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*pillow-heif"),
    "AVIF": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF.*pip install"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0", "a video: python -m htc_fast.predict takes it"),
    "NumPy": (b"\x93NUMPY\x01", "np.load"),
    "DICOM": (bytes(128) + b"DICM", "DICOM.*convert it"),
    "noise": (np.random.default_rng(0).bytes(500), "not a picture"),
    "text file object": (io.StringIO("a"), "open it with mode 'rb'"),
    "folder": (os.curdir, "is a folder"),
    "device": (os.devnull, "a device or a pipe"),
    "address": ("https://example.org/a.jpg", "is an address and no file: fetch it"),
    "zero in the name": ("a\0b", "null"),
    "name too long": ("a" * 5000, "too long"),
}


@pytest.mark.parametrize("source, sentence", REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_is_one_sentence(source, sentence):
    with pytest.raises(UserError, match=f"(?s){sentence}") as error:
        load_image(source)
    assert len(str(error.value)) < 600


def test_transparency_and_palettes(capsys):
    clear = Image.new("RGBA", (4, 3), (7, 8, 9, 0))
    assert load_image(raw.encode(clear, "PNG"))[0, 0].tolist() == [7, 8, 9] and not capsys.readouterr().err
    clear.putpixel((1, 1), (1, 2, 3, 255))
    assert load_image(raw.encode(clear, "PNG"))[:2, 1].tolist() == [[7, 8, 9], [1, 2, 3]]
    assert "colour that is stored under them" in capsys.readouterr().err
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(raw.encode(palette, "PNG", transparency=b"\xff\x00"))[0, 0].tolist() == [50, 60, 70]


@pytest.mark.parametrize("mode", "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16B I;16L".split())
def test_modes_of_pillow(mode):
    picture = Image.new(mode, (4, 3), 100 if mode[0] in "IF" else 0)
    want = {"CMYK": 255, "I": 100, "F": 100, "I;16": 100, "I;16B": 100, "I;16L": 100}.get(mode, 0)
    found = load_image(picture)
    assert found.shape == (3, 4, 3) and (mode in ("YCbCr", "LAB") or (found == want).all())


def test_inks():
    inks = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    for form in ("JPEG", "TIFF"):
        assert np.abs(load_image(raw.encode(inks, form)).astype(int) - [200, 30, 60]).max() <= 3


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames(tmp_path, capsys, form):
    first, *others = (Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue"))
    first.save(tmp_path / f"a.{form}", form, save_all=True, append_images=others)
    assert np.abs(load_image(tmp_path / f"a.{form}")[5, 5].astype(int) - [255, 0, 0]).max() <= 3
    assert "holds 3 frames or pages: the first is read, 2 are not" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientations(form, orientation):
    drawn = np.zeros((48, 64, 3), np.uint8)
    drawn[:24, :32], drawn[24:, :32], drawn[:24, 32:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = raw.encode(Image.fromarray(drawn), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB"))
    assert np.array_equal(load_image(file), want) and np.array_equal(load_image(file, want.shape[:2]), want)
    assert want.shape == ((64, 48, 3) if 5 <= orientation <= 8 else (48, 64, 3))
    if 5 <= orientation <= 8:
        assert np.array_equal(load_image(file, (48, 64)), drawn), "the annotations were made on the raw pixels"
    with pytest.raises(UserError, match="but its annotations say 7 x 9"):
        load_image(file, (9, 7))


def test_larger_than_pillows_limit(tmp_path, monkeypatch):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"60 x 40, 2,400 pixels and beyond the limit of 1,000: cut it"):
        load_image(tmp_path / "a.tif")
    # As it is by default: Pillow would refuse, we do not.
    monkeypatch.setattr(decode, "PILLOWS_LIMIT", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(decode, "LIMIT", 2000)
    with pytest.raises(UserError, match="cut it into tiles"):
        load_image(tmp_path / "a.tif")


def test_long_texts_and_profiles(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "a" * 2_000_000, zip=True)
    red = Image.new("RGB", (8, 8), "red")
    red.save(tmp_path / "text.png", pnginfo=info)
    red.save(tmp_path / "profile.png", icc_profile=bytes(3_000_000))
    for name in ("text.png", "profile.png"):
        assert load_image(tmp_path / name)[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ValueError, match="too large"):
        Image.open(tmp_path / "text.png")


def test_files_without_rights_or_memory(tmp_path, monkeypatch):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    def burst(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no right to read"):
        patch.setattr("builtins.open", refuse)
        load_image(tmp_path / "a.png")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="60 x 40 pixels does not fit into memory"):
        patch.setattr(decode, "_rgb", burst)
        load_image(tmp_path / "a.png")


def test_pictures_opened_elsewhere(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert load_image(file).shape == (4, 6, 3) and not file.closed
    picture = Image.open(tmp_path / "a.png")
    picture.close()
    with pytest.raises(UserError, match="closed or damaged"):
        load_image(picture)
    with pytest.raises(UserError, match="at least one pixel"):
        load_image(Image.new("RGB", (0, 3)))
    Image.new("RGB", (6, 4)).save(tmp_path / "a.nef", "TIFF")
    with pytest.raises(UserError, match="camera's raw file"):
        load_image(tmp_path / "a.nef")


def test_pictures_in_a_folder(tmp_path):
    for name in ("b.JFIF", "a.jpe", "c.Tif", "._a.jpg", "notes.txt", "d.heic", "data"):
        (tmp_path / name).touch()
    (tmp_path / "e.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.jpe", "b.JFIF", "c.Tif", "d.heic"]
    for path in pictures_in(tmp_path):
        path.unlink()
    with pytest.raises(UserError, match=r"found 2 other files \(\.txt, data\) and 1 folders"):
        pictures_in(tmp_path)
    Image.init()
    readable = {suffix for suffix, form in Image.registered_extensions().items() if form in decode.USUAL}
    assert readable <= set(SUFFIXES)
