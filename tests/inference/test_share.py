"""A detector as a folder and as a repository: weights that come back, and a card that says what they are."""

import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from htc_fast import UserError, load
from htc_fast.inference.card import card
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import same


@pytest.fixture(scope="module")
def model():
    return tiny("htc_r50", num_classes=3, class_names=("cat", "a|b", "<i>_x_"), image_size=(320, 533))


class Hub:
    """Notes what is asked of it in place of huggingface_hub.HfApi, and reads the folder that it gets."""

    def __init__(self, **fails):
        self.calls, self.files, self.fails = [], {}, fails

    def __call__(self, token=None):
        self.calls.append(("log in", token))
        return self

    def _note(self, name, given):
        self.calls.append((name, given))
        if name in self.fails:
            raise self.fails[name]

    def create_repo(self, repository, **options):
        self._note("create_repo", (repository, options))

    def create_branch(self, repository, **options):
        self._note("create_branch", (repository, options))

    def upload_folder(self, *, folder_path, **options):
        self.files = {one.name: one.read_bytes() for one in Path(folder_path).iterdir()}
        self._note("upload_folder", options)


@pytest.fixture
def api(monkeypatch):
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", made, raising=False)
    return made


def test_a_folder_comes_back(model, tmp_path):
    path = model.save(tmp_path / "new" / "owls", license="apache-2.0", metrics={"mask AP": 38.3})
    assert path == tmp_path / "new" / "owls" / "model.safetensors"
    assert sorted(one.name for one in path.parent.iterdir()) == ["README.md", "model.safetensors"]
    found = load(path.parent, device="cpu")
    assert same(model, found) and found.config == model.config
    text = (path.parent / "README.md").read_text()
    assert f'htc_fast.load("{path.parent}")' in text and "| mask AP | 38.3 |" in text


def test_a_folder_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*README\.md \(Not a directory\): make room or choose another"):
        model.save(tmp_path / "file" / "owls")


def test_a_push(model, api, tmp_path):
    assert (
        model.push_to_hub("me/owls", private=True, token="secret", tags=["owls"], message="first") == "hf-hub:me/owls"
    )
    assert api.calls == [
        ("log in", "secret"),
        ("create_repo", ("me/owls", {"private": True, "exist_ok": True})),
        ("upload_folder", {"repo_id": "me/owls", "revision": None, "commit_message": "first"}),
    ]
    assert api.files.keys() == {"README.md", "model.safetensors"}
    (tmp_path / "model.safetensors").write_bytes(api.files["model.safetensors"])
    assert same(model, load(tmp_path / "model.safetensors", device="cpu"))
    assert 'htc_fast.load("hf-hub:me/owls")' in api.files["README.md"].decode()
    assert b"secret" not in api.files["README.md"]


def test_a_push_to_a_branch(model, api):
    assert model.push_to_hub("hf-hub:me/owls", revision="better") == "hf-hub:me/owls@better"
    assert ("create_branch", ("me/owls", {"branch": "better", "exist_ok": True})) in api.calls
    assert api.calls[-1][1]["revision"] == "better"
    assert 'htc_fast.load("hf-hub:me/owls@better")' in api.files["README.md"].decode()


@pytest.mark.parametrize("name", ["owls", "me/my/owls", "me/owls@v1", "", None])
def test_names_that_are_none(model, api, name):
    with pytest.raises(UserError, match='takes the name of a repository, "owner/name", got'):
        model.push_to_hub(name)
    assert api.calls == []


@pytest.mark.parametrize(
    "step, error, sentence",
    [
        ("create_repo", errors.LocalTokenNotFoundError("x"), "the Hub does not let you into me/owls: log in with"),
        (
            "create_repo",
            errors.OfflineModeIsEnabled("x"),
            "HF_HUB_OFFLINE is set, so nothing is sent to me/owls: unset",
        ),
        ("upload_folder", ConnectionError("cut off"), r"the Hub did not do as asked with me/owls \(cut off\)"),
        ("create_repo", errors.HFValidationError("bad name"), r"'me/owls' names no repository of the Hub \(bad name\)"),
    ],
)
def test_a_push_that_fails(model, monkeypatch, step, error, sentence):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub(**{step: error}), raising=False)
    with pytest.raises(UserError, match=sentence):
        model.push_to_hub("me/owls")


def test_the_card(model):
    text = card(
        model.config, "hf-hub:me/owls", license="mit", tags=["owls", "htc_fast"], metrics={"mask_AP": 38, "b": 0.5}
    )
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert front.splitlines() == [
        "library_name: htc_fast",
        "pipeline_tag: image-segmentation",
        'license: "mit"',
        "tags:",
        '- "htc_fast"',
        '- "instance-segmentation"',
        '- "object-detection"',
        '- "htc_r50"',
        '- "owls"',
    ]
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert rows == [
        "| | |",
        r"| model | htc\_r50, backbone test\_resnet |",
        "| size of pictures | short side 320 pixels, long side at most 533 |",
        "| classes | 3 |",
        "| licence | mit |",
        r"| mask\_AP | 38 |",
        "| b | 0.5 |",
    ]
    assert body.endswith("\ncat, a\\|b, \\<i\\>\\_x\\_\n")
    assert compile(re.search(r"```python\n(.*?)```", body, re.DOTALL)[1], "card", "exec")


def test_a_card_without_anything_else():
    text = card(tiny("mask_rcnn_r50", num_classes=120).config, "a")
    assert "license:" not in text and "| licence | not stated: ask its owner |" in text
    assert "| size of pictures | not stated |" in text and "class 100 and 20 more" in text and "class 101" not in text


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"metrics": {"mask AP": "38"}}, "metrics takes numbers by name"),
        ({"metrics": [38]}, "metrics takes numbers by name"),
        ({"tags": "owls"}, "tags takes a list of text, got 'owls'"),
        ({"tags": [1]}, "tags takes a list of text"),
        ({"license": True}, "license takes the Hub's word for one"),
    ],
)
def test_what_a_card_refuses(model, api, options, sentence):
    with pytest.raises(UserError, match=sentence):
        model.push_to_hub("me/owls", **options)
    assert api.calls == []
