"""Pictures in bands of rows: the pixels of the whole picture, whatever the file's form, and in bounded memory."""

import io
import struct
import subprocess
import sys
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from htc_fast import UserError
from htc_fast.data import png
from htc_fast.data.pictures import load_image
from htc_fast.data.windows import Windows, open_windows

HEIGHT, WIDTH = 150, 97
COLOURS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
COLOURS[40:90] //= 64  # what compresses takes other filters
DEEP = np.random.default_rng(1).integers(0, 3000, (HEIGHT, WIDTH), dtype=np.uint16)
FORMS = {"RGB": COLOURS[..., :3], "RGBA": COLOURS, "L": COLOURS[..., 0], "LA": COLOURS[..., :2], "I;16": DEEP}


def bands_of(windows, step=40, back=15):
    """The picture, put together from bands that overlap."""
    height, width = windows.size
    whole = np.zeros((height, width, 3), np.uint8)
    for top in range(0, height, step - back):
        bottom = min(top + step, height)
        band = windows.read(top, bottom)
        assert top == 0 or (band[: min(back, bottom - top)] == whole[top : min(top + back, bottom)]).all()
        whole[top:bottom] = band
    return whole


def same(path, kind, size=None):
    expected = load_image(path, size)
    with open_windows(path, size, small=0) as windows:
        assert windows.kind == kind and windows.size == expected.shape[:2]
        assert np.array_equal(bands_of(windows), expected)
        # Somewhere else, then the beginning again.
        assert np.array_equal(windows.read(100, 120, 10, 50), expected[100:120, 10:50])
        assert np.array_equal(windows.read(105, 110, 3), expected[105:110, 3:])
        assert np.array_equal(windows.read(108, 140), expected[108:140])
        assert np.array_equal(windows.read(0, 3), expected[:3])
    return expected


@pytest.mark.parametrize("mode", FORMS)
def test_png(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(FORMS[mode]).save(path)
    expected = same(path, "PNG")
    assert expected.max() > 100


@pytest.mark.parametrize("mode", ["1", "P", "palette of 2 bits", "transparent palette", "transparent colour"])
def test_png_of_few_colours(tmp_path, mode):
    path, colours = tmp_path / "a.png", Image.fromarray(COLOURS[..., :3])
    if mode == "1":
        colours.convert("1").save(path)
    elif mode == "transparent colour":
        colours.save(path, transparency=tuple(COLOURS[5, 5, :3].tolist()))
    elif mode == "transparent palette":
        colours.quantize(30).save(path, transparency=bytes(range(30)))
    else:
        colours.quantize(4 if "bits" in mode else 256).save(path, bits=2 if "bits" in mode else 8)
    assert same(path, "PNG").shape == (*COLOURS.shape[:2], 3)


def filtered(rows, filters, pixel):
    """Rows of bytes [H, W * pixel] behind each of PNG's filters, as its specification has them."""
    lines, above = [], np.zeros(rows.shape[1], int)
    for kind, row in zip(filters, rows.astype(int)):
        left = np.concatenate([np.zeros(pixel, int), row[:-pixel]])
        corner = np.concatenate([np.zeros(pixel, int), above[:-pixel]])
        guess = left + above - corner
        a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        taken = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        lines.append(bytes([kind]) + ((row - taken) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (6, 4)])
def test_png_of_every_filter_in_small_parts(tmp_path, colour, channels):
    pixels = COLOURS[..., :channels]
    lines = filtered(pixels.reshape(HEIGHT, -1), [4, 3, 2, 1, 0] * 30, channels)
    packed = zlib.compress(lines)
    parts = [(b"IDAT", packed[i : i + 1000]) for i in range(0, len(packed), 1000)]
    head = (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, colour, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(png._file([head, *parts]).getvalue())
    expected = same(path, "PNG")
    assert np.array_equal(expected, pixels[..., :3] if channels > 1 else np.repeat(pixels, 3, axis=2))


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


WHOLE = {
    "turned.png": {"exif": turned(6)},
    "turned.tif": {"exif": turned(6)},
    "several.png": {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "red")]},
    "photo.jpg": {"quality": 95},
    "photo.bmp": {},
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_read_whole(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(COLOURS[..., :3]).save(path, **WHOLE[name])
    expected = same(path, "whole")
    assert expected.shape == ((WIDTH, HEIGHT, 3) if "turned" in name else (HEIGHT, WIDTH, 3))


def test_orientation_behind_the_pixels_and_the_size_that_undoes_it(tmp_path):
    head = (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    lines = filtered(COLOURS[..., :3].reshape(HEIGHT, -1), [0] * HEIGHT, 3)
    path, exif = tmp_path / "a.png", turned(8).tobytes().removeprefix(b"Exif\0\0")
    path.write_bytes(png._file([head, (b"IDAT", zlib.compress(lines)), (b"eXIf", exif)]).getvalue())
    assert same(path, "whole").shape == (WIDTH, HEIGHT, 3)
    same(path, "whole", (HEIGHT, WIDTH))


def test_small_pictures_and_arrays_are_read_whole(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS[..., :3]).save(path)
    assert open_windows(path).kind == "whole" and open_windows(COLOURS).kind == "whole"
    with pytest.raises(UserError, match="97 x 150 pixels, but its annotations say 3 x 2"):
        open_windows(path, (2, 3), small=0)
    with pytest.raises(UserError, match="is missing"):
        open_windows(tmp_path / "b.png")


def test_reduced():
    windows = Windows.whole(COLOURS[..., :3])
    assert np.array_equal(windows.reduced(50), COLOURS[::3, ::3, :3])
    assert np.array_equal(windows.reduced(150), COLOURS[..., :3])


def test_a_reduced_picture_keeps_no_band_of_the_whole(monkeypatch):
    windows, bands, alive = Windows.whole(np.zeros((4096, 64, 3), dtype=np.uint8)), [], []

    def read(*place, inner=windows.read):
        band = inner(*place).copy()
        bands.append(weakref.ref(band))
        alive.append(sum(one() is not None for one in bands))
        return band

    monkeypatch.setattr(windows, "read", read)
    assert windows.reduced(256).shape == (256, 4, 3)
    assert len(bands) == 8 and max(alive) <= 2


@pytest.mark.parametrize("damage", ["end", "bit"])
def test_a_damaged_png_is_said(tmp_path, damage):
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS[..., :3]).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data) if damage == "bit" else bytes(data[: len(data) // 2]))
    with pytest.raises(UserError, match="truncated or damaged"), open_windows(path, small=0) as windows:
        windows.read(0, HEIGHT)


TIFFS = {
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (32, 48)},
    "deflate": {"tile": (32, 48), "compression": "zlib"},
    "deflate, predictor": {"rowsperstrip": 16, "compression": "zlib", "predictor": True},
    "lzw": {"rowsperstrip": 16, "compression": "lzw"},
    "big": {"tile": (64, 64), "bigtiff": True},
}


@pytest.mark.parametrize("form", TIFFS)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA"])
def test_tiff(tmp_path, form, mode):
    tifffile = pytest.importorskip("tifffile")
    if form == "lzw":
        pytest.importorskip("imagecodecs")
    photometric = "rgb" if mode.startswith("RGB") else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if mode == "RGBA" else {}
    tifffile.imwrite(tmp_path / "a.tif", FORMS[mode], photometric=photometric, **extra, **TIFFS[form])
    assert same(tmp_path / "a.tif", "TIFF").shape == (*COLOURS.shape[:2], 3)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_tiff_of_pillow(tmp_path, compression, capsys):
    path = tmp_path / "a.tif"
    Image.fromarray(COLOURS[..., :3]).save(
        path, compression=compression, tiffinfo=TiffImagePlugin.ImageFileDirectory_v2()
    )
    with open_windows(path, small=0) as windows:
        assert np.array_equal(bands_of(windows), load_image(path))


PYRAMID = {"photometric": "rgb", "tile": (32, 48)}


def test_tiff_of_several_pages_is_read_by_its_first(tmp_path):
    tifffile, path = pytest.importorskip("tifffile"), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(COLOURS[..., :3], **PYRAMID)
        file.write(COLOURS[::2, ::2, :3].copy(), subfiletype=1, **PYRAMID)
    assert np.array_equal(same(path, "TIFF"), COLOURS[..., :3])


def test_a_mask_behind_the_picture_does_not_make_it_unreadable(tmp_path):
    tifffile, path = pytest.importorskip("tifffile"), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(COLOURS[..., :3], **PYRAMID)
        file.write(COLOURS[..., 3] > 9, photometric="mask", subfiletype=4, tile=(32, 48))
    assert np.array_equal(load_image(path), COLOURS[..., :3])
    same(path, "TIFF")


def test_tiles_that_are_left_out_are_empty(tmp_path):
    tifffile, path = pytest.importorskip("tifffile"), tmp_path / "a.tif"
    tifffile.imwrite(path, COLOURS[..., :3], **PYRAMID)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = file.pages[0].tags[name]
            tag.overwrite([0, *tag.value[1:4], 0, *tag.value[5:]])
    expected = COLOURS[..., :3].copy()
    expected[:32, :48] = expected[32:64, 48:96] = 0
    with open_windows(path, small=0) as windows:
        assert windows.kind == "TIFF" and np.array_equal(bands_of(windows), expected)
    with pytest.raises(UserError, match="leaves out parts that are empty, which Pillow mixes up"):
        load_image(path)


@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 16}], ids=["tiles", "strips"])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_tiff_of_jpeg(tmp_path, layout, subsampling):
    tifffile, path = pytest.importorskip("tifffile"), tmp_path / "a.tif"
    pytest.importorskip("imagecodecs")
    options = {"photometric": "rgb", "compression": "jpeg", "subsampling": subsampling, **layout}
    tifffile.imwrite(path, COLOURS[..., :3], **options)
    assert same(path, "TIFF").shape == (*COLOURS.shape[:2], 3)


def test_tiff_without_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    path = tmp_path / "without_the_package.tif"
    Image.fromarray(COLOURS[..., :3]).save(path)
    assert open_windows(path, small=0).kind == "whole"
    assert "pip install tifffile imagecodecs reads TIFF in parts." in capsys.readouterr().err


BANDS = """
import resource, sys
from htc_fast.data.windows import open_windows
import htc_fast.ops
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_windows(sys.argv[1]) as windows:
    total = sum(int(windows.read(top, min(top + 512, 8000))[0, 0, 0]) for top in range(0, 8000, 400))
print(windows.kind, total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_of_a_large_png(tmp_path):
    """8 000 x 8 000 pixels are 192 MB; a band of 512 rows is 12, and two are there while one is made."""
    line = np.arange(8000 * 3, dtype=np.uint8)
    packer, packed = zlib.compressobj(1), io.BytesIO()
    for row in range(8000):
        packed.write(packer.compress(b"\1" + np.roll(line, row).tobytes()))
    packed.write(packer.flush())
    head = (b"IHDR", struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0))
    path = tmp_path / "large.png"
    path.write_bytes(png._file([head, (b"IDAT", packed.getvalue())]).getvalue())
    done = subprocess.run([sys.executable, "-c", BANDS, path], capture_output=True, text=True, check=True)
    kind, total, grown = done.stdout.split()
    assert kind == "PNG" and int(grown) < 60_000, f"{grown} KB"
    assert int(total) > 0
