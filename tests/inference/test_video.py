"""predict_video: every frame once, in order; and the thread that reads ahead."""

import itertools
import threading
import time

import pytest

from htc_fast.errors import UserError
from htc_fast.inference.threads import read_ahead
from htc_fast.inference.video import predict_video
from tests.data import films
from tests.inference.fake import Fake


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_frame_once_in_order(tmp_path, batch_size):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    model = Fake()
    found = list(predict_video(model, films.write(tmp_path / "a.mp4", 10), size=(64, 96), batch_size=batch_size))
    assert [frame.number for frame, _ in found] == list(range(10))
    assert all(len(one) == 2 and one.size == (48, 64) for _, one in found)
    seen = [picture for images, _ in model.seen for picture in images]
    assert len(seen) == 10 and {tuple(picture.shape) for picture in seen} == {(3, 64, 96)}
    columns = [int((picture[0, 32] > 110).float().argmax()) for picture in seen]
    assert columns == sorted(columns) and len(set(columns)) > 8  # the square moves to the right


def test_few_frames_are_held_and_leaving_ends_it(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    before = set(threading.enumerate())
    frames = predict_video(Fake(), films.write(tmp_path / "a.mp4", 100), size=(64, 96), score_threshold=0.5)
    frame, found = next(frames)
    assert frame.number == 0 and len(found) == 1
    frames.close()
    assert not set(threading.enumerate()) - before


def test_a_video_that_breaks_off_is_told_after_its_frames(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    path = films.write(tmp_path / "a.mp4", 40)
    content = bytearray(path.read_bytes())
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    numbers = []
    with pytest.raises(UserError, match="damaged parts"):
        for frame, _ in predict_video(Fake(), path, size=(64, 96)):
            numbers.append(frame.number)
    assert numbers and numbers == list(range(len(numbers)))


def test_reading_ahead_is_bounded_and_in_order():
    made = []
    items = read_ahead((made.append(number) or number for number in itertools.count()), depth=3)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.1)
    assert len(made) <= 5 + 3 + 1
    items.close()
    assert len(made) <= 5 + 3 + 2 and list(read_ahead([], depth=1)) == []


def test_an_error_while_reading_ahead_comes_at_its_turn():
    def items():
        yield 1
        raise OSError("gone")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_leaving_does_not_wait_for_what_hangs():
    hang = threading.Event()

    def items():
        yield 0
        hang.wait(30)

    ahead = read_ahead(items())
    assert next(ahead) == 0
    start = time.monotonic()
    ahead.close()
    assert time.monotonic() - start < 5
    hang.set()
