"""From a video to instances, frame after frame: of any length, in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from htc_fast.data.instances import Instances
from htc_fast.data.video import Frame, Video
from htc_fast.errors import UserError
from htc_fast.inference.predict import say_full, stream
from htc_fast.inference.threads import read_ahead
from htc_fast.models.structures import Predictor


def predict_video(
    model: Predictor,
    source: str | Path,
    *,
    every: int = 1,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float = 0.05,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
) -> Iterator[tuple[Frame, Instances]]:
    """Find the instances in the frames of a video, or of a stream until it ends.

    source   path, address (rtsp://, http://, udp://, …), "-" for standard input, or a camera such as /dev/video0
    every    of how many frames one is looked at
    others   as `predict` has them
    returns  (frame, its instances), in order, as they are found; few frames are held at a time
    raises   UserError if it cannot be opened, or PyAV is not installed; if it broke off, after all frames before that
    """
    return _closed(
        model,
        Video(source, every),
        size=size,
        batch_size=batch_size,
        score_threshold=score_threshold,
        class_names=class_names,
        workers=workers,
    )


def _closed(model: Predictor, video: Video, **options: Any) -> Iterator[tuple[Frame, Instances]]:
    with video:
        yield from over(model, video, **options)
    if video.trouble:
        raise UserError(video.trouble)


def over(model: Predictor, video: Video, **options: Any) -> Iterator[tuple[Frame, Instances]]:
    """Predict the frames of an open video; whether all came, `video.trouble` says.

    options  of `stream`
    """
    with closing(read_ahead(video)) as frames:
        for frame, found in stream(model, 0, lambda frame: frame.pixels, order=frames, **options):
            if isinstance(found, UserError):
                raise found
            say_full(model, found, options.get("score_threshold", 0.0))
            yield frame, found
