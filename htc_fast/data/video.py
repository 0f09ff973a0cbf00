"""Videos and streams, frame after frame through PyAV, each with its time."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from htc_fast.data.formats import SUFFIXES, VIDEOS, kind_of_file
from htc_fast.errors import UserError, brief, check_count, say_once

STDIN = "-"
HDR = (16, 18)  # PQ and HLG, as FFmpeg counts ways to store brightness
SILENCE = 10.0  # seconds that a stream may send nothing
ADDRESS = re.compile(r"^([a-z][a-z0-9+]+):/+(?=[^/])", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    number   in the video, from 0
    seconds  since the first frame
    pixels   uint8 [H, W, 3] RGB, upright
    aspect   width of a pixel by its height; None: square, or not known
    """

    number: int
    seconds: float
    pixels: NDArray[np.uint8]
    aspect: Fraction | None = None


def is_stream(source: str | Path) -> bool:
    """Whether that is read until it ends: an address, but of a picture; "-" for standard input; a pipe; a camera."""
    text = str(source)
    if text == STDIN:
        return True
    if ADDRESS.match(text):
        return Path(urlsplit(text).path).suffix.lower() not in SUFFIXES
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and Path(text).name.startswith("video"))


def is_video(source: str | Path) -> bool:
    """Whether that is a stream, or a file of a video by its suffix or, with no picture's suffix, by its content."""
    suffix = Path(source).suffix.lower()
    if is_stream(source) or suffix in VIDEOS:
        return True
    if suffix in SUFFIXES or not os.path.isfile(source):
        return False
    try:
        with open(source, "rb") as file:
            return kind_of_file(file).startswith("a video")
    except OSError:
        return False


def title(source: str | Path) -> str:
    """What a source is called: of an address neither password nor query, which may be a secret."""
    parts = urlsplit(_address(str(source)))
    if not ADDRESS.match(str(source)):
        return "standard input" if str(source) == STDIN else str(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def need_reader() -> ModuleType:
    """PyAV.

    raises  UserError where it is not installed
    """
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise UserError(f"videos are read through PyAV, which {why}: pip install av.") from None
    return av


class Video:
    """The frames of a video or stream, in order; a block closes it.

    source   path, address (rtsp://, http://, udp://, …), "-" for standard input, or a camera such as /dev/video0
    every    of how many frames one is given
    length   frames that will be given, as the file says; None: not known, as of a stream
    rate     frames per second, on average, of those that are given
    trouble  what was wrong, once the frames have ended: it broke off, or parts could not be decoded
    ends     seconds since the first frame until which the last one stays, once the frames have ended
    raises   UserError if it cannot be opened or holds no video
    """

    def __init__(self, source: str | Path, every: int = 1):
        self.every, self.title = check_count("every", every), title(source)
        self.live, self.trouble = is_stream(source), ""
        self.av = need_reader()
        self.container = self._open(_address(str(source)))
        if not self.container.streams.video:
            self.container.close()
            raise UserError(f"{self.title} holds no video: choose another file.")
        if self.container.streams.audio:
            say_once(f"{self.title} has sound, which is left out.")
        self.stream = self.container.streams.video[0]
        if self.stream.codec_context.color_trc in HDR:
            say_once(f"{self.title} is of high dynamic range, which is not mapped to that of pictures: it looks pale.")
        self.stream.thread_type = "AUTO"
        own = self.stream.average_rate or self.stream.guessed_rate or 25
        self.own_rate = Fraction(min(max(own, Fraction(1, 1000)), 1000))  # below 1: a time lapse
        self.rate = self.own_rate / every
        self.seconds = None if self.live else self._seconds()
        frames = self.stream.frames or (self.seconds or 0) * self.own_rate
        self.length = None if self.live or not frames else -(-round(frames) // every)
        self.damaged, self.reading, self.stays, self.ends = 0, False, 0.0, 0.0

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self.reading:  # a thread that reads closes it when it is done
            self.container.close()

    def _open(self, source: str) -> Any:
        options, form, timeout = {}, None, SILENCE if self.live else None
        if not is_stream(source) and not os.path.exists(source):
            raise UserError(f"{self.title} is missing: check the path.")
        if source == STDIN:
            source = "pipe:0"
        elif not ADDRESS.match(source):
            form = "v4l2" if self.live and Path(source).name.startswith("video") else None
            source = f"file:{source}"  # else a colon in a name is taken for an address
            source = source.removeprefix("file:") if form else source
        elif source.startswith("rtsp"):
            options = {"rtsp_flags": "prefer_tcp"}  # packets lost on the way are grey blocks in the picture
        try:
            return self.av.open(source, format=form, options=options, timeout=timeout)
        except (self.av.FFmpegError, OSError) as error:
            if _silent(error):
                raise UserError(
                    f"{self.title} sent no video for {SILENCE:.0f} seconds: check that it is under way."
                ) from None
            raise UserError(f"{self.title} cannot be read as a video ({_reason(error)}): check it.") from None

    def _seconds(self) -> float | None:
        """How long the pictures last, as the file says."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        alone = len(self.container.streams) == 1 and self.container.duration
        return self.container.duration / self.av.time_base if alone else None

    def __iter__(self) -> Iterator[Frame]:
        self.reading = True
        try:
            yield from self._frames()
        finally:
            self.reading = False
            self.container.close()

    def _frames(self) -> Iterator[Frame]:
        convert, size = self.av.video.reformatter.VideoReformatter(), None
        start, seconds, number = None, 0.0, -1
        step = 1 / float(self.own_rate)
        for number, decoded in enumerate(self._decoded()):
            time = decoded.time
            start = time if start is None else start
            since = None if time is None or start is None else time - start
            if number:  # clocks of cameras stop and jump back
                seconds = since if since is not None and since > seconds else seconds + step
            if number % self.every:
                continue
            if size not in (None, (decoded.width, decoded.height)):
                say_once(f"{self.title} changes its size, and is read in its first one, {size[0]} x {size[1]} pixels.")
            size = size or (decoded.width, decoded.height)
            pixels = convert.reformat(decoded, *size, format="rgb24", **_matrix(decoded)).to_ndarray()
            turns, aspect = round(decoded.rotation / 90), self.stream.sample_aspect_ratio or None
            if turns % 4:
                pixels = np.ascontiguousarray(np.rot90(pixels, turns))
                aspect = 1 / aspect if aspect and turns % 2 else aspect
            yield Frame(number, seconds, pixels, aspect)
        # What does not move, in recordings of screens and in slide shows, is one frame that stays.
        self.ends = seconds + max(step, self.stays)
        self._judge(number + 1, self.ends)

    def _decoded(self) -> Iterator[Any]:
        """What the decoder gives; what it refuses is left out and counted."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (self.av.FFmpegError, OSError) as error:
                self.trouble = (
                    f"sent nothing for {SILENCE:.0f} seconds" if _silent(error) else f"broke off ({_reason(error)})"
                )
                packet = None
            if packet is not None and packet.dts is not None:
                self.stays = float((packet.duration or 0) * packet.time_base)
            try:
                frames = packet.decode() if packet is not None else self.stream.codec_context.decode(None)
            except EOFError:
                return
            except self.av.FFmpegError:
                self.damaged, frames = self.damaged + 1, []
            yield from frames
            if packet is None:
                return

    def _judge(self, count: int, seconds: float) -> None:
        """Whether all came that the file has told of."""
        whole = self.seconds or 0
        if not self.trouble and count and seconds < whole - max(1, whole / 20):
            self.trouble = f"ends after {seconds:.1f} of its {whole:.1f} seconds"
        if not self.trouble and self.damaged:
            self.trouble = f"has {self.damaged} damaged parts, which are left out"
        if not count:
            self.trouble = self.trouble or "has no frame that can be decoded"
        if self.trouble:
            kept = (
                "" if not count else f"; its first {count} frames are kept" if count > 1 else "; its one frame is kept"
            )
            self.trouble = f"{self.title} {self.trouble}{kept}."


def _address(source: str) -> str:
    """As it was meant: a path keeps one slash of two."""
    return ADDRESS.sub(r"\1://", source)


def _reason(error: BaseException) -> str:
    return brief(getattr(error, "strerror", None) or str(error))


def _silent(error: BaseException) -> bool:
    return type(error).__name__ in ("ExitError", "TimeoutError")


def _matrix(decoded: Any) -> dict[str, str]:
    """Of large pictures that do not say how colours were stored, what players take it for."""
    return {"src_colorspace": "ITU709"} if decoded.colorspace == 2 and decoded.height >= 720 else {}
