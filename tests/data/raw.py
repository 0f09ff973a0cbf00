"""Picture files that Pillow does not write: 16 bits per colour, and what a header can say of a TIFF."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def encode(picture: Image.Image, form: str, **options) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(values: np.ndarray, colour: int, size: tuple[int, int] | None = None) -> bytes:
    """values [H, W, C] as a PNG of 16 bits; size (width, height) to claim instead."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def tiff(
    values: np.ndarray, photometric: int = 1, planar: int = 1, extra: Sequence[int] = (), packed: bool = False
) -> bytes:
    """values [H, W] or [H, W, C] as a TIFF of their type, first byte lowest, packed by zlib or not."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    height, width = values.shape[:2]
    data = np.moveaxis(values, -1, 0).tobytes() if planar == 2 else values.tobytes()
    data = zlib.compress(data) if packed else data
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        **{
            256: [width],
            257: [height],
            258: [8 * values.itemsize] * channels,
            259: [8 if packed else 1],
            262: [photometric],
        },
        **{273: [0] * (channels if planar == 2 else 1), 277: [channels], 278: [height]},
        **{279: [len(data) // (channels if planar == 2 else 1)] * (channels if planar == 2 else 1)},
        **{284: [planar], **({338: list(extra)} if extra else {}), 339: [kind] * channels},
    }
    long = (256, 257, 273, 278, 279)
    head = 8 + 2 + 12 * len(tags) + 4
    sizes = {tag: (4 if tag in long else 2) * len(one) for tag, one in tags.items()}
    start = head + sum(size for size in sizes.values() if size > 4)
    tags[273] = [start + i * tags[279][0] for i in range(len(tags[273]))]
    entries, outside = b"", b""
    for tag, one in tags.items():
        value = struct.pack(f"<{len(one)}{'I' if tag in long else 'H'}", *one)
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", head + len(outside))
        outside += value if len(value) > 4 else b""
        entries += struct.pack("<HHI", tag, 4 if tag in long else 3, len(one)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + outside + data
