"""`predict` on videos: overlays with the same frames, results by frame, and how it ends."""

import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from htc_fast import predict as command
from htc_fast.commands import entry, network
from htc_fast.data.video_file import VideoFile
from tests.data import films
from tests.inference.fake import Fake

av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command with a fake model; returns exit status, stdout and stderr."""

    def run(*arguments, model=None):
        monkeypatch.setattr(network, "load", lambda *_, **__: model or Fake())
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments), "--weights", "w", "--image-size", "64"])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def times_in(path):
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)]


def test_a_video(tmp_path, run):
    out = tmp_path / "out"
    status, said, _ = run(films.write(tmp_path / "clip.mp4", 20), "--out", out)
    assert status == 0 and said == f"{tmp_path / 'clip.mp4'}: 20 frames, 40 instances: {out / 'clip.mp4'}\n"
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "results.json"]
    results = json.loads((out / "results.json").read_text())
    assert [item["image_id"] for item in results] == [number for number in range(20) for _ in range(2)]
    assert results[4]["frame"] == 2 and results[4]["seconds"] == 0.2 and results[0]["segmentation"]["size"] == [48, 64]
    assert {item["file_name"] for item in results} == {str(tmp_path / "clip.mp4")}
    with av.open(str(out / "clip.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate, stream.frames) == (64, 48, 10, 20)
        drawn = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(drawn) == 20
    plain = films.square(0)
    assert np.abs(drawn[0][14:34, 20:44].astype(int) - plain[14:34, 20:44]).mean() > 20  # a mask lies over it
    middle = [picture[26, 46] for picture in drawn]  # behind the square's way, within the mask
    assert np.ptp(np.stack(middle[:5]).astype(int), axis=0).max() < 12  # one class, one colour


def test_times_of_the_frames_are_kept(tmp_path, run):
    times = [0, 0.1, 0.15, 0.7, 0.75, 2.0]
    status, _, _ = run(films.write(tmp_path / "a.mp4", 6, times=times), "--out", tmp_path / "out")
    assert status == 0 and times_in(tmp_path / "out" / "a.mp4") == pytest.approx(times, abs=1e-4)
    status, _, _ = run(tmp_path / "a.mp4", "--out", tmp_path / "two", "--every", "2")
    assert status == 0 and times_in(tmp_path / "two" / "a.mp4") == pytest.approx([0, 0.15, 0.75], abs=1e-4)


def test_pictures_and_videos_together(tmp_path, run):
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "7.png")
    films.write(folder / "a.mp4", 3)
    films.write(tmp_path / "unnamed.mp4", 2).rename(tmp_path / "unnamed")
    status, said, _ = run(folder, tmp_path / "unnamed", "--out", tmp_path / "out", "--score", 0.5)
    assert status == 0 and "a.mp4: 3 frames, 3 instances" in said and "1 pictures, 1 instances" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [item["image_id"] for item in results] == [7, 8, 9, 10, 11, 12]  # no two pictures share one
    assert [item.get("frame") for item in results] == [None, 0, 1, 2, 0, 1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"7.jpg", "a.mp4", "unnamed.mp4", "results.json"}


def test_without_overlays_and_without_replacing(tmp_path, run):
    content = films.write(tmp_path / "a.mp4", 3).read_bytes()
    status, _, err = run(tmp_path / "a.mp4", "--out", tmp_path)
    assert status == 2 and "a.mp4 would replace a video: choose another --out" in err
    assert run(tmp_path / "a.mp4", "--out", tmp_path, "--no-overlays")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "results.json"]
    assert (tmp_path / "a.mp4").read_bytes() == content


def test_what_cannot_be_read_is_reported_and_the_rest_kept(tmp_path, run):
    path = films.write(tmp_path / "cut.mp4", 40)
    content = bytearray(path.read_bytes())
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    (tmp_path / "bad.mp4").write_text("hello")
    whole = films.write(tmp_path / "whole.mp4", 3)
    status, said, err = run(path, tmp_path / "bad.mp4", tmp_path / "gone.mp4", whole, "--out", tmp_path / "out")
    assert status == 1 and "whole.mp4: 3 frames" in said
    assert "cut.mp4 has" in err and "damaged parts" in err and err.count("skipped: ") == 2 and "gone.mp4 is" in err
    kept = len(times_in(tmp_path / "out" / "cut.mp4"))
    assert 0 < kept < 40 and f"cut.mp4: {kept} frames" in said


def test_ctrl_c_keeps_what_was_found(tmp_path, run):
    class Interrupted(Fake):
        def detect(self, images, image_sizes):
            if len(self.seen) == 8:
                signal.raise_signal(signal.SIGINT)
            return super().detect(images, image_sizes)

    out = tmp_path / "out"
    status, said, err = run(films.write(tmp_path / "a.mp4", 30), "--out", out, model=Interrupted())
    assert status == entry.INTERRUPTED and "interrupted" in err and "a.mp4: 8 frames, 16 instances" in said
    assert len(times_in(out / "a.mp4")) == 8
    results = json.loads((out / "results.json").read_text())
    assert results[-1]["frame"] == 7 and sorted(path.name for path in out.iterdir()) == ["a.mp4", "results.json"]


def test_a_full_disk_leaves_nothing_and_speaks_of_nothing(tmp_path, run, monkeypatch):
    rooms, written = [True] * 3, VideoFile.add

    def full(self, *frame):
        if not rooms:
            raise OSError(28, "No space left on device")
        rooms.pop()
        written(self, *frame)

    film = films.write(tmp_path / "a.mp4", 8)
    monkeypatch.setattr(VideoFile, "add", full)
    status, said, err = run(film, "--out", tmp_path / "out")
    assert status == 2 and "No space left on device" in err and said == ""
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_ends_a_stream_that_sends_nothing(tmp_path, run):
    path = films.write(tmp_path / "a.mp4", 3)
    with av.open(str(path)) as source, av.open(str(tmp_path / "a.ts"), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    os.mkfifo(tmp_path / "pipe")
    hang = threading.Event()

    def send():
        with open(tmp_path / "pipe", "wb") as pipe:
            for _ in range(40):  # FFmpeg reads ahead to see what it is
                pipe.write((tmp_path / "a.ts").read_bytes())
            pipe.flush()
            hang.wait(30)

    threading.Thread(target=send, daemon=True).start()

    class Interrupted(Fake):
        def detect(self, images, image_sizes):
            if not self.seen:
                main = threading.main_thread().ident
                threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
            return super().detect(images, image_sizes)

    start = time.monotonic()
    status, _, err = run(tmp_path / "pipe", "--out", tmp_path / "out", model=Interrupted())
    took = time.monotonic() - start
    hang.set()
    assert status == entry.INTERRUPTED and "interrupted" in err and took < 15
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(times_in(tmp_path / "out" / "pipe.mp4")) == results[-1]["frame"] + 1 > 1


def test_without_the_package_it_is_one_sentence_before_the_work(tmp_path, run, monkeypatch):
    path = films.write(tmp_path / "a.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = run(path, "--out", tmp_path / "out")
    assert status == 2 and "PyAV, which is not installed: pip install av" in err and not (tmp_path / "out").exists()


def test_videos_behind_weights():
    run = command.PredictionRun(weights=("w.pth", "rtsp:/cam.local/door", "b.mp4"))
    assert run.pictures == ("rtsp:/cam.local/door", "b.mp4") and [str(one) for one in run.weights] == ["w.pth"]
