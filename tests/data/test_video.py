"""Videos: every frame once, in order, at its time and upright; what is damaged is one sentence behind what was read."""

import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from htc_fast.data.formats import kind_of_file
from htc_fast.data.video import Video, is_stream, is_video, title
from htc_fast.data.video_file import VideoFile
from htc_fast.errors import UserError, say_once
from tests.data import films

av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")


def left(pixels):
    """Where the square begins."""
    return int((pixels[24, :, 0] > 110).argmax())


def test_every_frame_once_in_order_at_its_time(tmp_path):
    with Video(films.write(tmp_path / "a.mp4", 30)) as video:
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(30)) and (video.length, video.rate) == (30, 10)
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(30)])
    assert [left(frame.pixels) for frame in frames] == list(range(30)) and video.trouble == ""
    assert frames[0].pixels.shape == (48, 64, 3) and frames[0].pixels.dtype == np.uint8


def test_colours_survive(tmp_path):
    with Video(films.write(tmp_path / "a.mp4", 1)) as video:
        [frame] = video
    assert np.abs(frame.pixels[20:28, 4:12].reshape(-1, 3).mean(0) - (200, 60, 20)).max() < 6
    assert np.abs(frame.pixels[40:, 40:].reshape(-1, 3).mean(0) - 20).max() < 4


def test_of_every_third_frame(tmp_path):
    with Video(films.write(tmp_path / "a.mp4", 10), every=3) as video:
        frames = list(video)
    assert [frame.number for frame in frames] == [0, 3, 6, 9] and (video.length, video.rate) == (4, Fraction(10, 3))
    assert frames[3].seconds == pytest.approx(0.9)


def test_times_that_are_no_multiples(tmp_path):
    times = [0, 0.1, 0.15, 0.7, 0.75, 2.0]
    with Video(films.write(tmp_path / "a.mp4", 6, times=times)) as video:
        assert [frame.seconds for frame in video] == pytest.approx(times, abs=1e-4)


def test_a_time_lapse_is_whole(tmp_path):
    with Video(films.write(tmp_path / "a.mp4", 4, rate=Fraction(1, 10))) as video:
        assert [frame.seconds for frame in video] == [0, 10, 20, 30]
    assert video.trouble == "" and (video.length, video.rate) == (4, Fraction(1, 10))


def test_a_last_frame_that_stays_is_no_early_end(tmp_path):
    """A recording of a screen on which nothing moves any more, written as FFmpeg does: one frame, for 20 seconds."""
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in (0, 1, 2, None):
            frame = None if number is None else av.VideoFrame.from_ndarray(films.square(number), format="rgb24")
            for packet in stream.encode(frame):
                packet.duration = 200 if packet.pts == 2 else 1
                file.mux(packet)
    with Video(tmp_path / "a.mp4") as video:
        assert [frame.seconds for frame in video] == pytest.approx([0, 0.1, 0.2])
    assert video.trouble == "" and video.seconds == pytest.approx(20.2)


def test_a_last_frame_stays_in_what_is_written(tmp_path):
    with VideoFile(tmp_path / "a.mp4", Fraction(10)) as file:
        for number in range(9):
            file.add(films.square(number), number / 10)
        file.ends = 20.8
    with Video(tmp_path / "a.mp4") as video:
        frames = list(video)
    assert len(frames) == 9 and video.seconds == pytest.approx(20.8, abs=0.2) and video.trouble == ""
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(9)])


@pytest.mark.parametrize("transfer, said", [(16, True), (18, True), (1, False)])
def test_high_dynamic_range_is_said(tmp_path, capsys, transfer, said):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for frame in (av.VideoFrame.from_ndarray(films.square(0), format="rgb24"), None):
            file.mux(stream.encode(frame))
    say_once.cache_clear()
    with Video(tmp_path / "a.mp4") as video:
        assert len(list(video)) == 1
    assert ("a.mp4 is of high dynamic range, which is not mapped" in capsys.readouterr().err) is said


@pytest.mark.parametrize("turns", films.ROTATED)
def test_pictures_are_upright(tmp_path, turns):
    with Video(films.turn(films.write(tmp_path / "a.mp4", 2), turns)) as video:
        frame = next(iter(video))
    wanted = np.rot90(films.square(0), turns)
    assert frame.pixels.shape == wanted.shape
    assert np.abs(frame.pixels.astype(int) - wanted).mean() < 8


def test_odd_sides_are_filled_up(tmp_path):
    with Video(films.write(tmp_path / "a.mp4", 2, size=(47, 63))) as video:
        assert {frame.pixels.shape for frame in video} == {(48, 64, 3)}


def test_pixels_that_are_not_square(tmp_path):
    with VideoFile(tmp_path / "a.mp4", Fraction(10)) as file:
        file.add(films.square(0), 0.0, Fraction(4, 3))
    with Video(tmp_path / "a.mp4") as video:
        assert [frame.aspect for frame in video] == [Fraction(4, 3)]


def test_a_file_cut_off_gives_what_it_has(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(films.square(number), format="rgb24")))
        file.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Video(path) as video:
        frames = list(video)
    assert 10 < len(frames) < 50 and [frame.number for frame in frames] == list(range(len(frames)))
    assert (
        f"a.mkv ends after {len(frames) / 10:.1f} of its 6.0 seconds; its first {len(frames)} frames" in video.trouble
    )


def test_damaged_parts_are_left_out_and_said(tmp_path):
    content = bytearray(films.write(tmp_path / "a.mp4", 40).read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : middle + 200] = bytes(200)
    (tmp_path / "a.mp4").write_bytes(content)
    with Video(tmp_path / "a.mp4") as video:
        frames = list(video)
    assert 0 < len(frames) < 40 and "damaged parts, which are left out" in video.trouble


def test_what_is_no_video_is_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    half = films.write(tmp_path / "half.mp4", 4)
    half.write_bytes(half.read_bytes()[:900])
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a video .*: check it"):
            Video(tmp_path / name)
    with pytest.raises(UserError, match="is missing: check the path"):
        Video(tmp_path / "gone.mp4")
    with pytest.raises(UserError, match="every takes a whole number"):
        Video(half, every=0)


def test_sound_alone(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 8000, 0
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    with pytest.raises(UserError, match="holds no video"):
        Video(tmp_path / "a.mp4")


def test_a_pipe_is_read_until_it_ends(tmp_path):
    with av.open(str(tmp_path / "a.ts"), "w") as file, av.open(str(films.write(tmp_path / "a.mp4", 20))) as source:
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "a.ts").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content], daemon=True)
    writer.start()
    with Video(tmp_path / "pipe") as video:
        frames = list(video)
    assert video.live and video.length is None and len(frames) == 20 and not video.trouble
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(20)], abs=1e-4)


def test_what_is_a_stream_and_what_a_video(tmp_path):
    for one in ("rtsp://u:p@cam.local/door", "http://127.0.0.1:80/feed", "-", "udp:/239.0.0.1:5000", "/dev/video0"):
        assert is_stream(one) or not os.path.exists(one), one
    assert not is_stream("https://example.org/a.jpg") and not is_stream("hf-hub:owner/name") and not is_stream("a.mp4")
    assert title("rtsp://user:secret@cam.local:554/door?token=x") == "rtsp://cam.local:554/door"
    assert title("udp:/239.0.0.1:5000") == "udp://239.0.0.1:5000"
    unnamed = films.write(tmp_path / "a.mp4", 1).rename(tmp_path / "unnamed")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert is_video("a.MP4") and is_video(unnamed) and not is_video(tmp_path / "b.png") and not is_video("gone")
    (tmp_path / "a.ts").write_bytes((b"G" + bytes(187)) * 4)
    with open(tmp_path / "a.ts", "rb") as file:
        assert "htc_fast.predict takes it under a video's name" in kind_of_file(file)


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(RuntimeError), VideoFile(tmp_path / "a.mp4", Fraction(10)) as file:
        file.add(films.square(0), 0.0)
        raise RuntimeError
    with VideoFile(tmp_path / "b.mp4", Fraction(10)):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError), VideoFile(tmp_path / "c.mp4", Fraction(10)) as file:
        (tmp_path / "c.mp4.partial").mkdir()
        file.add(films.square(0), 0.0)


def test_without_the_package(tmp_path, monkeypatch):
    path = films.write(tmp_path / "a.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="PyAV, which is not installed: pip install av"):
        Video(path)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from tests.data import films\n"
        "from htc_fast.data.video import Video\n"
        "path = films.write(Path(sys.argv[1]), int(sys.argv[2]), size=(360, 640))\n"
        "count = sum(1 for _ in Video(path))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = {}
    for count in (100, 700):
        done = [sys.executable, "-c", code, str(tmp_path / "a.mp4"), str(count)]
        read, peaks[count] = map(int, subprocess.run(done, capture_output=True, text=True, check=True).stdout.split())
        assert read == count
    assert peaks[700] < peaks[100] + 100  # MB; the 600 frames themselves are 400
