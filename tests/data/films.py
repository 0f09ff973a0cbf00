"""Videos made for tests: a bright square on a dark ground, a step further to the right in every frame."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from htc_fast.data.video_file import VideoFile

ROTATED = {  # the first two rows of a track's matrix, 16.16 fixed point, by turns against the clock
    1: (0, -1, 0, 1, 0, 0),
    2: (-1, 0, 0, 0, -1, 0),
    3: (0, 1, 0, -1, 0, 0),
}


def square(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[16:32, number % (width - 16) : number % (width - 16) + 16] = (200, 60, 20)
    return pixels


def write(path: Path, count: int = 12, rate: int | Fraction = 10, times=None, size=(48, 64)) -> Path:
    with VideoFile(path, Fraction(rate)) as file:
        for number in range(count):
            file.add(square(number, *size), times[number] if times else number / rate)
    return path


def turn(path: Path, turns: int) -> Path:
    """Say in an MP4 that its pictures are to be turned, as phones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # behind version, times, id, duration, layer and volume
    for place, value in zip((0, 1, 2, 3, 4, 5), ROTATED[turns]):
        content[start + 4 * place : start + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path
