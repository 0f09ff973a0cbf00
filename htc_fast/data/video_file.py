"""Videos written frame by frame through PyAV: H.264 in MP4, in bounded memory."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from htc_fast.data.video import need_reader

CLOCK = 90_000  # ticks per second: those of MPEG, whole for 24, 25, 30, 50 and 60 frames
BT709 = 1  # as FFmpeg counts ways to store colours; players take large videos for it without being told
CODECS = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {"b": "8M"}, "mpeg4": {"qscale": "3"}}


class VideoFile:
    """An H.264 video in MP4, written frame by frame, each at its own time; the name appears at the end of the block.

    Leaving the block by Ctrl-C keeps what came so far; by an error, or without a frame, leaves nothing.

    rate    frames per second, on average
    ends    seconds until which the last frame stays; 0: about as long as the others
    raises  OSError if it cannot be written
    """

    def __init__(self, path: Path, rate: Fraction):
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.rate, self.last = rate, -1
        self.av = need_reader()
        self.container: Any = None
        self.held: Any = None  # the last packet, whose duration is the end of the track
        self.ends = 0.0
        self.convert = self.av.video.reformatter.VideoReformatter()

    def __enter__(self) -> "VideoFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, pixels: NDArray[np.uint8], seconds: float, aspect: Fraction | None = None) -> None:
        """Append a frame [H, W, 3], of the first one's size.

        seconds  since the start, more than that before
        aspect   width of a pixel by its height; None: square
        """
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:  # colours are stored for two by two pixels
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.container is None:
            self._start(pixels.shape[0], pixels.shape[1], aspect)
        rgb = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self.convert.reformat(rgb, format="yuv420p", dst_colorspace="ITU709")
        self.last = max(round(seconds * CLOCK), self.last + 1)
        frame.pts, frame.time_base = self.last, Fraction(1, CLOCK)
        self._write(frame)

    def _start(self, height: int, width: int, aspect: Fraction | None) -> None:
        codec = next(one for one in CODECS if one in self.av.codecs_available)
        self.container = self.av.open(str(self.partial), "w", format="mp4")
        self.stream = self.container.add_stream(codec, rate=self.rate, options=dict(CODECS[codec]))
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, CLOCK)
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = self.av.video.reformatter.ColorRange.MPEG
        context.sample_aspect_ratio = aspect or 1

    def _write(self, frame: Any) -> None:
        for packet in self.stream.encode(frame):
            if self.held is not None:
                self.container.mux(self.held)
            self.held = packet

    def _finish(self) -> None:
        self._write(None)
        stays = self.ends - self.last / CLOCK
        if stays > 0:
            self.held.duration = round(stays / float(self.held.time_base))
        self.container.mux(self.held)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        keep = self.container is not None and (kind is None or issubclass(kind, KeyboardInterrupt))
        try:
            if self.container is not None:
                try:
                    if keep:
                        self._finish()
                finally:
                    self.container.close()
            if keep:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)
