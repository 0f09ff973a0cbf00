"""Videos for `predict`: which they are, and one after the other looked at, drawn and written."""

import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from htc_fast.commands.exports import Exports
from htc_fast.commands.network import Ready
from htc_fast.commands.output import writing
from htc_fast.commands.pictures import find_pictures, name_overlays
from htc_fast.cores import usable_cores
from htc_fast.data.annotations import Annotations
from htc_fast.data.draw import draw
from htc_fast.data.formats import SUFFIXES, VIDEOS
from htc_fast.data.instances import Instances
from htc_fast.data.video import Frame, Video, is_stream, is_video, need_reader, title
from htc_fast.data.video_file import VideoFile
from htc_fast.errors import UserError
from htc_fast.inference.threads import Behind
from htc_fast.inference.video import over

Films = list[tuple[str, Path | None]]  # a video and where its overlay goes


@dataclass(frozen=True)
class Showing:
    """How the frames of videos are looked at and shown."""

    every: int
    boxes: bool
    font: Path | None
    options: dict[str, Any]  # of inference.predict.stream


def find_sources(patterns: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Pictures and videos among files, folders, globs and streams.

    raises  UserError if something is not there, nothing is left to do, or there are videos and no reader of them
    """
    streams = [one for one in patterns if is_stream(one)]
    rest = [one for one in patterns if not is_stream(one)]
    found = find_pictures(rest, (*SUFFIXES, *VIDEOS)) if rest or not streams else []
    videos = [one for one in found if is_video(one)]
    if videos or streams:
        need_reader()
    return [one for one in found if one not in set(videos)], [*dict.fromkeys(streams), *map(str, videos)]


def name_films(sources: Sequence[str], out: Path | None) -> Films:
    """Videos and where their overlays go: DIR/clip.mp4; a stream is called by the end of its address.

    out     None: there are no overlays
    raises  UserError if an overlay would replace a video
    """
    if out is None:
        return [(source, None) for source in sources]
    return list(zip(sources, name_overlays([_path(one) for one in sources], out, ".mp4")))


def predict_films(
    model: Ready,
    films: Films,
    exports: Exports,
    category_ids: Sequence[int | str | None],
    first: int,
    showing: Showing,
) -> int:
    """Predict videos one after the other; write their overlays, and to `exports` what was found in each frame.

    first    image id of the first frame; further videos go on where one ended
    returns  how many could not be read, or not to their end; each is reported
    """
    failed = 0
    for source, overlay in films:
        try:
            video = Video(source, showing.every)
        except UserError as error:
            failed += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        with video:
            first = _predict(model, video, overlay, exports, category_ids, first, showing)
        if video.trouble:
            failed += 1
            print(video.trouble, file=sys.stderr)
    return failed


def first_id(ids: Sequence[int | str], known: Annotations | None) -> int:
    """The least image id beyond those of pictures, for the first frame: 0 where there are none."""
    taken = [*ids, *(picture.id for picture in known.pictures)] if known else ids
    return max((int(str(one)) + 1 for one in taken if str(one).isdecimal()), default=0)


def _predict(
    model: Ready,
    video: Video,
    overlay: Path | None,
    exports: Exports,
    category_ids: Sequence[int | str | None],
    first: int,
    showing: Showing,
) -> int:
    """Frames are drawn in threads and written in another, in order; returns the image id after the last."""
    threads = max(2, min(8, usable_cores() // 2))  # beside a GPU, drawing takes longest
    frames, instances, last = 0, 0, -1
    bar = tqdm(total=video.length, desc=video.title, unit="frame", disable=None)

    def keep(frame: Frame, found: Instances, picture: Future | None) -> None:
        nonlocal frames, instances, last
        if file is not None and picture is not None:
            file.add(np.asarray(picture.result()), frame.seconds, frame.aspect)
        exports.add_frame(video.title, frame.number, frame.seconds, found, first + frame.number, category_ids)
        frames, instances, last = frames + 1, instances + len(found), frame.number

    try:
        with (
            bar,
            _written(overlay, video) as file,
            ThreadPoolExecutor(threads, thread_name_prefix="draw") as drawing,
            Behind(threads=1, depth=threads + 2) as behind,
        ):
            for frame, found in over(model, video, **showing.options):
                bar.update()
                shown = None
                if file is not None:
                    shown = drawing.submit(draw, frame.pixels, found, boxes=showing.boxes, font=showing.font)
                behind(keep, frame, found, shown)
    except Exception:
        frames = 0  # an error leaves no file to speak of
        raise
    finally:  # also where Ctrl-C ends a stream
        if frames:
            print(f"{video.title}: {frames} frames, {instances} instances: {overlay or exports.out}")
    return first + last + 1


@contextmanager
def _written(path: Path | None, video: Video) -> Iterator[VideoFile | None]:
    """raises  UserError if it cannot be written"""
    if path is None:
        yield None
        return
    with writing(path), VideoFile(path, video.rate) as file:
        yield file
        file.ends = video.ends


def _path(source: str) -> Path:
    """A path whose stem may name an overlay."""
    if not is_stream(source):
        return Path(source)
    words = re.findall(r"[\w-]+", Path(title(source)).stem)
    return Path("_".join(words) or "stream")
