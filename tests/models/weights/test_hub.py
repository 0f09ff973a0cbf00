"""Repositories of the Hugging Face Hub, read from a server on loopback that answers as the Hub does."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from huggingface_hub import errors

from htc_fast import UserError, create_model, load
from htc_fast.models.weights import hub, source
from htc_fast.models.weights.save import weights_bytes
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import same

COMMITS = {"main": "0123456789" * 4, "better": "abcdef0123" * 4}
NAMES = ("cat", "dog", "owl")


class Handler(BaseHTTPRequestHandler):
    """/owner/name/resolve/revision/file, for one repository: me/owls with branches main and better."""

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        owner, name, _, revision, file = self.path.lstrip("/").split("?")[0].split("/", 4)
        code = {"owls": None, "gated": "GatedRepo"}.get(name, "RepoNotFound") if owner == "me" else "RepoNotFound"
        code = code or ("RevisionNotFound" if revision not in COMMITS else None)
        code = code or ("EntryNotFound" if (file, revision) not in self.server.files else None)
        body = b"" if code else self.server.files[file, revision]
        self.server.seen.append((self.command, self.path))
        self.send_response({None: 200, "GatedRepo": 403}.get(code, 404))
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMITS.get(revision, COMMITS["main"]))
        self.send_header("ETag", f'"{revision}-{len(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.seen = {}, []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{made.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(scope="module")
def shared():
    return tiny("mask_rcnn_r50", num_classes=3, class_names=NAMES)


def test_a_repository_is_read_and_kept(server, shared, monkeypatch):
    server.files[hub.FILE, "main"] = weights_bytes(shared)
    found = load("hf-hub:me/owls", device="cpu")
    assert same(shared, found) and found.config == shared.config
    small = {"backbone": "test_resnet", "channels": 16, "box_channels": 32}
    assert same(shared, create_model("mask_rcnn_r50", num_classes=3, weights="hf-hub:me/owls", **small))
    assert [command for command, _ in server.seen].count("GET") == 1
    # What is in the cache needs no network.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    server.seen.clear()
    assert same(shared, load("hf-hub:me/owls", device="cpu")) and server.seen == []


def test_a_revision(server, shared):
    server.files[hub.FILE, "main"] = b"something else"
    server.files[hub.FILE, "better"] = weights_bytes(shared)
    assert same(shared, load("hf-hub:me/owls@better", device="cpu"))
    assert all("/better/" in path for _, path in server.seen)
    with pytest.raises(UserError, match="is no PyTorch checkpoint or is damaged"):
        load("hf-hub:me/owls")


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("hf-hub:me/cats", "there is no repository me/cats on the Hub, or it is private: check the name, or log in"),
        ("hf-hub:me/gated", "me/gated is gated: ask for access at https://huggingface.co/me/gated, then log in with"),
        ("hf-hub:me/owls@v9", "me/owls has no revision v9: name a branch, a tag or a commit"),
        ("hf-hub:me/owls", "me/owls has no model.safetensors, so push_to_hub did not make it"),
        ("hf-hub:owls", "'hf-hub:owls' names no repository of the Hub: expected hf-hub:owner/name"),
        ("hf-hub:a/b/c", "names no repository of the Hub"),
        ("hf-hub:me/ow ls", "'me/ow ls' names no repository of the Hub"),
    ],
)
def test_what_is_not_there(name, sentence, server):
    with pytest.raises(UserError) as error:
        source.local(name, None)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_offline_and_not_in_the_cache(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in huggingface_hub's cache, and the environment's HF_HUB_OFFLINE is set"):
        hub.fetch("hf-hub:me/owls")
    assert server.seen == []


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            errors.LocalEntryNotFoundError("x"),
            "and the Hub cannot be reached: get model.safetensors of https://hugging",
        ),
        (errors.OfflineModeIsEnabled("x"), "the environment's HF_HUB_OFFLINE is set, so nothing is sent to a/b@c"),
        (errors.LocalTokenNotFoundError("x"), "the Hub does not let you into a/b: log in with `hf auth login`"),
        (PermissionError(13, "Permission denied", "cache"), "cannot read or write cache .*Permission denied.*HF_HOME"),
        (RuntimeError("one\ntwo"), r"the Hub did not do as asked with a/b@c \(one\): see to the network, or try again"),
        (RuntimeError(), r"\(RuntimeError\)"),
    ],
)
def test_sentences(error, sentence, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=sentence):
        raise hub.refused(error, "a/b", "c")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf-hub:… needs huggingface_hub: pip install huggingface_hub\."):
        load("hf-hub:me/owls")


def test_names():
    assert hub.is_name("hf-hub:a/b") and not hub.is_name("a/b") and not hub.is_name("hub:a/b")
    source.check("hf-hub:a/b", "htc_r50")
    source.check(None, "htc_r50")
