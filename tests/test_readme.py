"""What README.md and CONTRIBUTING.md say is there: commands, files, names, and code that runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import htc_fast
from htc_fast import ops

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=["model", "deploy", "operator", "integration"])
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", sorted(set(re.findall(r"-m (htc_fast\.\w+)", README))))
def test_commands_exist(command):
    done = subprocess.run([sys.executable, "-m", command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "usage:" in done.stdout


def test_options_of_the_commands_exist():
    for line in "\n".join(blocks("bash")).splitlines():
        found = re.search(r"-m (htc_fast\.\w+)([^#]*)", line)
        options = re.findall(r"--[a-z-]+", found[2]) if found else []
        if options:
            help_text = subprocess.run(
                [sys.executable, "-m", found[1], "--help"], capture_output=True, text=True
            ).stdout
            assert not [option for option in options if option not in help_text]


def test_ci_runs_the_test_command():
    command = next(line for line in "\n".join(blocks("bash")).splitlines() if line.endswith("pytest"))
    install = command.split("&&", 1)[1].replace("pip install", "pip install -q")
    assert install.strip() in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_files_named_are_there(text):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:csrc|htc_fast|tests|scripts|benchmarks)/[\w./]*\w\.?\w*)`", text)
    assert links + paths
    assert not [path for path in links + paths if not (ROOT / path).exists()]


def test_models_named_are_there():
    table = README[README.index("| the paper's row |") :]
    names = [
        name for name in re.findall(r"`([a-z]\w+[\w.]*)`", table[: table.index("\n\n")]) if "_r" in name or "_x" in name
    ]
    assert len(names) > 8 and not set(names) - set(htc_fast.list_models())


def test_operators_named_are_there():
    assert not [name for name in re.findall(r"ops\.([a-z_]+)\(", README) if not hasattr(ops, name)]


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"make ([a-z-]+)", README + CONTRIBUTING)
    assert targets and not [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
