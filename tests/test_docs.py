"""What README.md, CONTRIBUTING.md and docs/ say is there: commands, options, files, names, and code that runs."""

import html
import importlib
import inspect
import io
import os
import posixpath
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import htc_fast
from htc_fast import ops, training
from htc_fast.models.config import RPN, Cascade, Model
from tests.data import builder

ROOT = Path(__file__).resolve().parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}
README, WORKFLOW = PAGES["README.md"], (ROOT / ".github" / "workflows" / "ci.yml").read_text()
COMMANDS = ("look", "train", "evaluate", "predict", "convert", "export", "profile", "info", "ablate")
SLOW = {"docs/deploy.md", "docs/onnx.md"}  # exports and profiles
TINY = {"backbone": "test_resnet", "pretrained": False, "iterations": 1, "image_size": (64, 64), "save_every": 0}
TINY["set"] = {"channels": 16, "box_channels": 32, "samples": 16, "rpn_train_proposals": 30, "rpn_proposals": 30}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def with_code() -> list:
    found = [page for page, text in PAGES.items() if blocks(text, "python")]
    return [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in found]


@cache
def help_of(command: str) -> str:
    """What a command prints for --help."""
    before, sys.argv = sys.argv, [command, "--help"]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), pytest.raises(SystemExit, match="0"):
            importlib.import_module(f"htc_fast.{command}").main()
    finally:
        sys.argv = before
    return printed.getvalue()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with what the code speaks of: a data set `coco`, a picture; and training made small."""
    for split in ("train", "val"):
        builder.write(tmp_path / "coco", split=split)
    Image.new("RGB", (80, 60)).save(tmp_path / "street.jpg")
    trainer = training.Trainer
    monkeypatch.setattr(training, "Trainer", lambda run, **more: trainer(replace(run, **TINY), **more))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", with_code())
def test_code_runs(page, desk):
    names: dict = {}
    codes = blocks(PAGES[page], "python")
    for number, code in enumerate(codes, start=1):
        exec(compile(code, f"{page}, block {number}", "exec"), names)
    assert codes and "__builtins__" in names  # something ran


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command):
    assert f"-m htc_fast.{command}" in README and "usage:" in help_of(command)


def test_options_of_the_commands_exist():
    lines = "\n".join(code for text in PAGES.values() for code in blocks(text, "bash")).splitlines()
    told = [found for line in lines if (found := re.search(r"-m htc_fast\.(\w+)([^#]*)", line))]
    missing = [(one[1], option) for one in told for option in re.findall(r"--[a-z-]+", one[2])
               if option not in help_of(one[1])]  # fmt: skip
    assert len(told) > 10 and not missing


def test_training_names_every_option_and_no_other():
    text = PAGES["docs/training.md"]
    options = {f"--{field.name.replace('_', '-')}" for field in fields(training.TrainingRun)}
    table = text[text.index("## Options") : text.index("## Data")]
    assert not [option for option in options if not re.search(rf"`{option}\b", table)]
    known = help_of("train") + help_of("evaluate") + " --help --nproc-per-node"
    assert not [option for option in re.findall(r"--[a-z][a-z-]+", text) if option not in known]


def test_every_field_of_a_configuration_is_explained():
    text = PAGES["docs/models.md"]
    table = text[text.index("| field |") :]
    told = {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    there = {one.name for kind in (Model, Cascade) for one in fields(kind)} | {f"rpn_{one.name}" for one in fields(RPN)}
    assert told == there - {"name", "rpn", "stages"}


def test_signatures_are_those_of_the_operators():
    text = "\n".join(blocks(PAGES["docs/operators.md"], "text"))
    told = re.findall(r"^(\w+)\((.*?)\)$", text, re.MULTILINE | re.DOTALL)
    functions = [name for name in ops.__all__ if name.islower()]
    assert {name for name, _ in told} == set(functions) - {"use_backend", "mask_head_weights"}
    for signature in told:
        found = inspect.signature(getattr(ops, signature[0]))
        bare = [one.replace(annotation=inspect.Parameter.empty) for one in found.parameters.values()]
        plain = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
        assert "(" + " ".join(signature[1].split()) + ")" == plain, signature[0]


@pytest.mark.parametrize("page", ["docs/operators.md", "docs/api/ops.md"])
def test_every_operator_has_its_place(page):
    assert not [name for name in ops.__all__ if not re.search(rf"\b{name}\b", PAGES[page])]


def test_operators_and_models_named_are_there():
    text = "\n".join(PAGES.values())
    assert not [name for name in re.findall(r"\bops\.([a-z]\w+)\(", text) if not hasattr(ops, name)]
    models = set(re.findall(r"`((?:htc|cascade_mask|mask_rcnn)_[rx]\d\w*(?:\.\d)?)`", text))
    assert len(models) > 8 and not models - set(htc_fast.list_models())


@pytest.mark.parametrize("page", PAGES)
def test_files_named_are_there(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", PAGES[page])
    missing = [link for link in links if not (ROOT / posixpath.dirname(page) / link).exists()]
    paths = re.findall(r"`((?:csrc|htc_fast|tests|scripts|benchmarks|examples|docs)/[\w./]*\w\.?\w*)`", PAGES[page])
    assert not missing + [path for path in paths if not (ROOT / path).exists()]


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    told = re.findall(r"`make ([^`]+)`", "\n".join(PAGES.values())) + re.findall(r"run: make (.+)", WORKFLOW)
    targets = {target for one in told for target in re.findall(r"[a-z][a-z-]+", one)}
    assert len(targets) > 5 and not {one for one in targets if not re.search(rf"^{one}:", makefile, re.MULTILINE)}


def test_tests_named_are_there():
    told = re.findall(r"`pytest (tests/\S+\.py)(?: -k (\w+))?", "\n".join(PAGES.values()))
    missing = [one for one in told if not re.search(rf"def test_\w*{one[1]}", (ROOT / one[0]).read_text())]
    assert told and not missing


def test_readme_is_short_and_its_first_screen_answers():
    assert len(README.splitlines()) <= 150
    screen = "\n".join(README.splitlines()[:24])
    for answer in (
        "htc_fast/ops/nms.py",
        "htc_fast.load(",
        "Trainer(TrainingRun(",
        "#add-an-operator",
        "pytest tests/",
    ):
        assert answer in screen


def test_ci_runs_the_test_command():
    command = next(line for line in "\n".join(blocks(README, "bash")).splitlines() if line.endswith("pytest"))
    install = command.split("&&", 1)[1].replace("pip install", "pip install -q")
    assert install.strip() in (ROOT / ".ci" / "run").read_text() and "run: .ci/run" in WORKFLOW
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_version_is_the_same_everywhere():
    assert f"\n## {htc_fast.__version__}" in PAGES["CHANGELOG.md"]
    assert f"\nversion: {htc_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the site is built where `pip install -e '.[docs]'` was done")
    pytest.importorskip("mkdocstrings", reason="the site is built where `pip install -e '.[docs]'` was done")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    pages = [path.removeprefix("docs/").removesuffix(".md") for path in PAGES if path.startswith("docs/")]
    assert not [page for page in pages if not (site / page / "index.html").exists()]
    assert 'href="operators/"' in (site / "index.html").read_text()


def test_docstrings_stand_as_they_are_written(site):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "api" / "ops" / "index.html").read_text()))
    for operator in (ops.nms, ops.conv3x3_relu, ops.encode_masks):
        table = inspect.getdoc(operator).split("\n\n")[1]
        assert table in text, operator.__name__
