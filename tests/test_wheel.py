"""What is built where, without building: architectures by machine, names by variant, cibuildwheel's settings."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LISTED = "compute_75\ncompute_80\ncompute_86\ncompute_89\ncompute_90\ncompute_100\ncompute_120\n"
EVERY = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
USUAL = "8.0;9.0+PTX"


@pytest.fixture
def setup(monkeypatch):
    """setup.py as a module, with nothing in the environment that chooses for it."""
    for name in ("TORCH_CUDA_ARCH_LIST", "HTC_FAST_CUDA", "HTC_FAST_TORCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    spec = importlib.util.spec_from_file_location("htc_fast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def programs(monkeypatch, folder: Path, **outputs: str | None) -> None:
    """A PATH with programs that print these texts; None fails."""
    for name, text in outputs.items():
        file = folder / name.replace("_", "-")
        file.write_text("#!/bin/sh\nexit 9\n" if text is None else f"#!/bin/sh\nprintf '%s' '{text}'\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    "cards, wanted, answer",
    [
        ("9.0\n", None, "9.0+PTX"),
        ("8.9\n8.0\n8.9\n", None, "8.0;8.9+PTX"),
        ("12.0\n9.0\n", None, "9.0;12.0+PTX"),  # by number, not by letter
        ("7.5\n", None, USUAL),  # older than the kernels
        ("13.0\n", None, USUAL),  # newer than this nvcc: PTX
        ("No devices were found\n", None, USUAL),
        (None, None, USUAL),
        ("9.0\n", "8.6", "8.6"),
        ("9.0\n", "all", EVERY),
        (None, "ALL", EVERY),
    ],
)
def test_cuda_kernels_are_built_for_the_gpus_here_or_as_asked(setup, monkeypatch, tmp_path, cards, wanted, answer):
    programs(monkeypatch, tmp_path, nvidia_smi=cards, nvcc=LISTED)
    if wanted:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    assert setup.architectures(str(tmp_path / "nvcc")) == answer


def test_an_older_nvcc_builds_what_it_knows(setup, monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, nvcc="compute_80\ncompute_86\ncompute_89\n")
    assert setup.architectures(str(tmp_path / "nvcc")) == "8.0+PTX"  # and no nvidia-smi at all
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "all")
    assert setup.architectures(str(tmp_path / "nvcc")) == "8.0;8.6;8.9+PTX"


def test_a_compiler_that_is_not_there_is_one_sentence(setup, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="cannot be run"):
        setup.architectures(str(tmp_path / "nvcc"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDACXX", raising=False)
    assert setup.nvcc() is None
    monkeypatch.setenv("HTC_FAST_CUDA", "1")  # a wheel of that name would lack its kernels
    with pytest.raises(SystemExit, match="no nvcc was found"):
        setup.nvcc()


@pytest.mark.parametrize(
    ("cards", "named", "answer"),
    [("7.5\n", "7.5", USUAL), ("7.5\n9.0\n6.1\n7.5\n", "6.1 and 7.5", "9.0+PTX"), ("9.0\n", None, "9.0+PTX")],
)
def test_a_gpu_too_old_for_the_kernels_is_told(setup, monkeypatch, tmp_path, cards, named, answer, capsys):
    programs(monkeypatch, tmp_path, nvidia_smi=cards, nvcc=LISTED)
    assert setup.architectures(str(tmp_path / "nvcc")) == answer
    said = capsys.readouterr().err
    wanted = (
        f"htc_fast: no CUDA kernels are built for the GPU of compute capability {named} here, as they need 8.0 or "
        "newer: set HTC_FAST_CUDA=0 to leave them out, or TORCH_CUDA_ARCH_LIST to what they are to run on\n"
    )
    assert said == (wanted if named else "")


def test_a_list_of_architectures_keeps_what_the_kernels_run_on(setup, monkeypatch, capsys):
    def chosen(wanted):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
        return setup.architectures("nvcc")

    assert chosen("8.0 9.0a, 9.0a;10.0f+PTX;") == "8.0;9.0a;10.0f+PTX" and not capsys.readouterr().err
    assert chosen("7.5 8.0 8.6 9.0 10.0 12.0+PTX") == "8.0;8.6;9.0;10.0;12.0+PTX"  # as NVIDIA's containers have it
    assert "need 8.0 or newer, so none are built for 7.5\n" in capsys.readouterr().err
    with pytest.raises(
        SystemExit, match=r"none are built for 7\.0 and 7\.5\+PTX: name what they are to run on, or leave"
    ):
        chosen("7.0;7.5+PTX")
    for wrong in ("Hopper", "90", "9.0+ptx", "all+PTX", "native"):
        with pytest.raises(SystemExit, match=r"is not an architecture like 9\.0 or 9\.0\+PTX, nor all"):
            chosen(wrong)


def test_an_empty_list_is_none(setup, monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, nvidia_smi="9.0\n", nvcc=LISTED)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", " ; ")
    assert setup.architectures(str(tmp_path / "nvcc")) == "9.0+PTX"


def test_only_two_words_choose_for_or_against_cuda(setup, monkeypatch):
    for wrong in ("false", "off", "2"):
        monkeypatch.setenv("HTC_FAST_CUDA", wrong)
        with pytest.raises(SystemExit, match=f"HTC_FAST_CUDA is 0, no CUDA kernels, or 1, .*got '{wrong}'"):
            setup.nvcc()


def test_tools_that_are_missing_are_named(setup, monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, cmake="")
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="the native build needs ninja and pybind11, not found here: pip install"):
        setup.check_tools()


def test_each_choice_of_architectures_has_its_build_folder(setup):
    names = [setup.folder_name(wanted) for wanted in ("", "9.0", "9.0+PTX", EVERY)]
    assert names == ["cpu", "9-0", "9-0-ptx", "8-0-8-6-8-9-9-0-10-0-12-0-ptx"]


@pytest.mark.parametrize(
    "command, cuda, tag",
    [("bdist_wheel", "0", "+cpu"), ("dist_info", "0", "+cpu"), ("bdist_wheel", "1", None), ("sdist", "0", None)],
)
def test_a_wheel_without_cuda_says_so_in_its_version(setup, monkeypatch, command, cuda, tag):
    monkeypatch.setenv("HTC_FAST_CUDA", cuda)
    monkeypatch.setattr(sys, "argv", ["setup.py", command])
    assert setup.version_tag().get("tag_build") == tag


def test_torch_headers_come_from_where_they_are_said_to_be(setup, monkeypatch, tmp_path):
    monkeypatch.setenv("HTC_FAST_TORCH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"HTC_FAST_TORCH=.* is no torch package: give the folder"):
        setup.torch_folder()
    (tmp_path / "include").mkdir()
    assert setup.torch_folder() == tmp_path


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_cibuildwheel_builds_every_python_and_runs_scripts_that_exist():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert settings["build"] == [f"cp3{minor}-*" for minor in range(10, 15)]
    linux = settings["linux"]
    for command in (linux["before-all"], linux["repair-wheel-command"]):
        script = ROOT / command.split()[0]
        assert script.stat().st_mode & 0o100, command
        assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert linux["environment"]["TORCH_CUDA_ARCH_LIST"] == "all"


def steps_of_the_clean_machine():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text())
    return [step["run"] for step in workflow["jobs"]["clean"]["steps"] if "run" in step]


def test_the_clean_machine_is_one_without_any_compiler(tmp_path):
    look = steps_of_the_clean_machine()[0]
    assert subprocess.run(["/bin/sh", "-ec", look], env={"PATH": str(tmp_path)}).returncode == 0
    (tmp_path / "nvcc").symlink_to("/bin/sh")  # the last that is looked for
    assert subprocess.run(["/bin/sh", "-ec", look], env={"PATH": str(tmp_path)}).returncode == 1


def test_the_clean_machine_predicts_on_a_file_that_its_training_leaves():
    files = set(re.findall(r"\brun/([\w.]+)", " ".join(steps_of_the_clean_machine())))
    assert files == {"predictions.png", "model.safetensors"}
    assert all(f'"{name}"' in (ROOT / "htc_fast" / "training" / "loop.py").read_text() for name in files)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_the_operators_library_uses_torchs_stable_abi_alone():
    library = ROOT / "htc_fast" / "libhtc_fast_ops.so"
    listed = subprocess.run(["objdump", "-T", library], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in listed.splitlines() if "*UND*" in line]
    torch = [name for name in names if name.startswith(("aoti_torch_", "torch_"))]
    assert len(torch) > 20
    # Mangled names of torch's C++ classes: those change with every release.
    assert not [name for name in names if "2at" in name or "3c10" in name or "5torch" in name]


def test_a_library_that_does_not_load_says_what_the_system_said(tmp_path):
    copy = tmp_path / "htc_fast" / "ops" / "_native.py"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "htc_fast" / "ops" / "_native.py", copy)
    (tmp_path / "htc_fast" / "libhtc_fast_ops.so").write_text("no library")
    spec = importlib.util.spec_from_file_location("another_native", copy)
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    assert "libhtc_fast_ops.so does not load beside torch 2." in native.problem()
    assert "wants 2.11 or newer (file too short); build it with `pip install" in native.problem()


@pytest.mark.parametrize(
    ("tools", "variants", "said"),
    [
        ("auditwheel patchelf", "cpu", "make wheel: wheels are looked at with torch-abi-audit, not found here"),
        ("auditwheel patchelf torch-abi-audit", "cpu", "and python imports no torch: install it, or name its folder"),
        ("auditwheel patchelf torch-abi-audit python", "gpu", "make wheel: VARIANTS are cuda and cpu, got gpu"),
    ],
)
def test_make_wheel_says_what_is_missing_before_it_builds(tmp_path, tools, variants, said):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    for tool in tools.split():
        (tmp_path / tool).write_text("#!/bin/sh\necho torch\n")
        (tmp_path / tool).chmod(0o755)
    settings = {"PATH": str(tmp_path), "VARIANTS": variants, "PYTHONS": "python3.11"}
    done = subprocess.run([shutil.which("bash"), ROOT / "scripts" / "wheels.sh"], env=settings, capture_output=True)
    assert done.returncode == 2 and done.stderr.decode().count("\n") == 1 and said in done.stderr.decode()
