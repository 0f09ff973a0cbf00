"""Downloads of public checkpoints from a server on loopback that may do everything wrong."""

import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from htc_fast import create_model, load
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.weights import public
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same

SMALL = {"backbone": "test_resnet", "channels": 16, "box_channels": 32, "semantic_classes": 4}


class Server(ThreadingHTTPServer):
    """What it answers to any request: status, body, and how long it says that the body is."""

    status, body, promised, requests, silent = 200, b"", None, 0, 0.0

    def address(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/files/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        time.sleep(self.server.silent)
        self.send_response(self.server.status)
        promised = self.server.promised
        self.send_header("Content-Length", str(len(self.server.body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """torch.hub's folder of checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def publish(monkeypatch, address, body, model="mask_rcnn_r50"):
    """Put a file, of that name and content, into the table as the model's only one."""
    digest = hashlib.sha256(body).hexdigest()[:8]
    found = public.Checkpoint(f"{address}-{digest}.pth", digest, 12, 40.0, 35.0, "a test", num_classes=3)
    monkeypatch.setitem(public.PUBLISHED, model, {"coco-1x": found})
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small Mask R-CNN and the bytes of its file as mmdetection writes it."""
    model = tiny("mask_rcnn_r50", num_classes=3)
    path = tmp_path_factory.mktemp("made") / "model.pth"
    meta = {"CLASSES": ("cat", "dog", "owl")}
    torch.save({"meta": meta, "state_dict": as_mmdetection(model.state_dict())}, path)
    return model, path.read_bytes()


def everything_in(folder):
    return sorted(one.name for one in folder.rglob("*") if one.is_file()) if folder.exists() else []


def test_a_good_file_is_kept_and_needs_no_network_again(server, home, trained, monkeypatch):
    model, body = trained
    found = publish(monkeypatch, server.address("mask"), body)
    server.body = body
    made = create_model("mask_rcnn_r50", num_classes=3, weights="coco", **SMALL)
    assert same(model, made) and made.config.class_names == ("cat", "dog", "owl")
    assert everything_in(home) == [found.path.name] and found.path.parent == home
    server.status = 500
    assert same(model, create_model("mask_rcnn_r50", num_classes=3, weights="coco-1x", **SMALL))
    assert server.requests == 1


def test_load_finds_it_by_the_model_s_name(server, home, trained, monkeypatch):
    model, body = trained
    publish(monkeypatch, server.address("mask"), body)
    server.body = body
    monkeypatch.setitem(zoo.MODELS, "mask_rcnn_r50", zoo.config("mask_rcnn_r50", backbone="test_resnet"))
    assert same(model, load("coco", "mask_rcnn_r50", device="cpu"))
    assert same(model, load(Path("coco-1x"), device="cpu", otherwise="mask_rcnn_r50"))
    with pytest.raises(UserError, match="name one with --model"):
        load("coco")


def test_several_processes_download_once(server, home, monkeypatch):
    server.body = b"weights" * 100_000
    found = publish(monkeypatch, server.address("several"), server.body)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: public.fetch(found), range(4)))
    assert set(paths) == {found.path} and server.requests == 1 and found.path.read_bytes() == server.body


@pytest.mark.parametrize(
    "status, sent, promised, sentence",
    [
        (200, b"another file", None, "does not have the hash .* and was removed: try again"),
        (200, b"", None, "does not have the hash"),
        (200, b"the file that", 22, "the transfer broke off"),
        (404, b"the file that was made", None, r"the server answers 404 \(Not Found\): try again later"),
        (500, b"the file that was made", None, r"the server answers 500 \(Internal Server Error\)"),
    ],
    ids=["wrong hash", "nothing", "broken off", "404", "500"],
)
def test_a_bad_answer_leaves_nothing_behind(status, sent, promised, sentence, server, home, monkeypatch):
    server.status, server.body, server.promised = status, sent, promised
    found = publish(monkeypatch, server.address("bad"), b"the file that was made")
    with pytest.raises(UserError, match=sentence) as error:
        public.fetch(found)
    assert everything_in(home) == []
    assert found.address in str(error.value) and f"put it at {home / found.path.name}" in str(error.value)
    # The next attempt is a new one.
    server.status, server.body, server.promised = 200, b"the file that was made", None
    assert public.fetch(found).read_bytes() == server.body


def test_no_network(home, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = publish(monkeypatch, f"http://127.0.0.1:{port}/file", b"content")
    with pytest.raises(UserError, match=r"the download failed .*refused.*: see to the network, or download") as error:
        create_model("mask_rcnn_r50", num_classes=3, weights="coco")
    assert found.address in str(error.value) and str(found.path) in str(error.value) and everything_in(home) == []
    # Put there by hand, it is found.
    found.path.write_bytes(b"content")
    assert public.fetch(found) == found.path


def test_a_connection_that_ends_in_the_middle(home, monkeypatch):
    def broken(address, path, **options):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    with pytest.raises(UserError, match=r"the download failed \(.*reset by peer\): see to the network"):
        public.fetch(publish(monkeypatch, "http://127.0.0.1/x", b""))


def test_a_server_that_falls_silent(server, home, monkeypatch):
    monkeypatch.setattr(public, "PATIENCE", 0.2)
    server.silent = 1.0
    with pytest.raises(UserError, match=r"the download failed \(.*timed out\): see to the network"):
        public.fetch(publish(monkeypatch, server.address("slow"), b""))
    assert everything_in(home) == [] and socket.getdefaulttimeout() is None


def test_other_classes_are_refused_before_the_download(server, home, monkeypatch):
    publish(monkeypatch, server.address("mask"), b"")
    assert {one.num_classes for one in public.PUBLISHED["htc_r50"].values()} == {80}
    for build in (lambda: create_model("htc_r50", num_classes=3, weights="coco"), lambda: load("coco", "htc_r50", 3)):
        with pytest.raises(
            UserError, match="weights coco have COCO's 80 classes and the model is to have 3: leave out"
        ):
            build()
    assert server.requests == 0 and not home.exists()


def test_a_cached_file_of_another_hash(home, monkeypatch):
    found = publish(monkeypatch, "http://127.0.0.1/file", b"content")
    home.mkdir(parents=True)
    found.path.write_bytes(b"half")
    with pytest.raises(UserError, match=rf"{found.path.name} has the hash \w{{8}} instead of .*: delete it, and"):
        public.fetch(found)
    assert found.path.read_bytes() == b"half"


def test_a_folder_that_cannot_be_written(tmp_path, server, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "torch"))
    found = publish(monkeypatch, server.address("x"), b"")
    with pytest.raises(UserError, match=r"cannot write to .*torch.hub.checkpoints \(Not a directory\).*TORCH_HOME"):
        public.fetch(found)
    assert server.requests == 0


def test_a_disk_that_is_full(home, monkeypatch):
    def full(address, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.hub, "download_url_to_file", full)
    with pytest.raises(UserError, match=r"cannot write to .*checkpoints \(No space left on device\): make room"):
        public.fetch(publish(monkeypatch, "http://127.0.0.1/x", b""))


def test_the_bar_is_shown_in_one_process(server, home, monkeypatch, capsys):
    server.body = b"content"
    monkeypatch.setenv("RANK", "1")
    public.fetch(publish(monkeypatch, server.address("second"), server.body))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    public.fetch(publish(monkeypatch, server.address("first"), server.body))
    assert "100%" in capsys.readouterr().err
