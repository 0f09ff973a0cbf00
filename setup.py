"""Calls CMake, nothing else: all native code is described in CMakeLists.txt."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path(__file__).resolve().parent
sys.path.insert(0, str(SOURCE / "build_backend"))
from htc_fast_build import installed_torch  # noqa: E402

ALL_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
# The kernels use no instruction newer than sm_90's: machine code for Ampere, Ada and Hopper, PTX for all that is newer.
USUAL_ARCHITECTURES = "8.0;9.0+PTX"
OLDEST = 8.0  # compute capability that the kernels are written for


def torch_folder() -> Path:
    """The target environment's torch; under build isolation without one, the build environment's."""
    if found := installed_torch():
        return found
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("htc_fast builds against PyTorch's headers, and torch is not installed: pip install torch")
    return Path(spec.origin).parent


def cuda_architectures(wanted: str) -> str:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") in CMake's words ("80-real;90-real;90-virtual")."""
    out = []
    for entry in re.split(r"[;, ]+", wanted.strip(";, ")):
        known = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", entry)
        if known is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: {entry!r} is not an architecture like 9.0 or 9.0+PTX, nor all")
        name = known[1] + known[2]
        out += [f"{name}-real"] + ([f"{name}-virtual"] if known[3] else [])
    return ";".join(out)


def known_to(compiler: str, wanted: list[str]) -> list[str]:
    """Those that this nvcc compiles for; all of them where it lists none."""
    try:
        listed = subprocess.run([compiler, "--list-gpu-arch"], capture_output=True, text=True).stdout
    except OSError as error:
        raise SystemExit(
            f"htc_fast: the CUDA compiler {compiler} cannot be run ({error.strerror}): correct CUDACXX or CUDA_HOME, "
            "or leave the CUDA kernels out with HTC_FAST_CUDA=0"
        ) from None
    known = set(re.findall(r"compute_(\d+)", listed))
    return [name for name in wanted if name.replace(".", "") in known] if known else wanted


def gpus_here() -> list[str]:
    """The architectures of this machine's GPUs that the kernels are written for, oldest first; older ones are told."""
    asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = sorted(set(re.findall(r"^\s*(\d+\.\d)\s*$", listed, re.MULTILINE)), key=float)
    if old := [name for name in found if float(name) < OLDEST]:
        print(
            f"htc_fast: no CUDA kernels are built for the GPU of compute capability {' and '.join(old)} here, as they "
            f"need {OLDEST} or newer: set HTC_FAST_CUDA=0 to leave them out, or TORCH_CUDA_ARCH_LIST to what they are "
            "to run on",
            file=sys.stderr,
        )
    return found[len(old) :]


def asked_for(wanted: str) -> str:
    """A list of architectures without those that are too old for the kernels, which are told, and each once."""
    cuda_architectures(wanted)  # refused where it is none
    names = [*dict.fromkeys(re.split(r"[;, ]+", wanted))]
    old = [name for name in names if float(re.match(r"[\d.]+", name)[0]) < OLDEST]
    if old:
        said = (
            f"TORCH_CUDA_ARCH_LIST: the CUDA kernels need {OLDEST} or newer, so none are built for {' and '.join(old)}"
        )
        if len(old) == len(names):
            raise SystemExit(f"{said}: name what they are to run on, or leave them out with HTC_FAST_CUDA=0")
        print(f"htc_fast: {said}", file=sys.stderr)
    return ";".join(name for name in names if name not in old)


def architectures(compiler: str) -> str:
    """TORCH_CUDA_ARCH_LIST, where "all" is all that wheels have; else this machine's GPUs; else the usual ones."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip("; ,")
    if wanted and wanted.lower() != "all":
        return asked_for(wanted)
    here = [] if wanted else gpus_here()
    if here and known_to(compiler, here) == here:
        return ";".join(here) + "+PTX"
    # A GPU newer than this nvcc runs the PTX.
    names = (ALL_ARCHITECTURES if wanted else USUAL_ARCHITECTURES).removesuffix("+PTX").split(";")
    return ";".join(known_to(compiler, names) or names) + "+PTX"


def nvcc() -> str | None:
    """The CUDA compiler, from CUDACXX, CUDA_HOME or PATH; HTC_FAST_CUDA=0 builds without it, 1 not without it."""
    choice = os.environ.get("HTC_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"htc_fast: HTC_FAST_CUDA is 0, no CUDA kernels, or 1, not without them; got {choice!r}")
    if choice == "0":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None and choice == "1":
        raise SystemExit("htc_fast: HTC_FAST_CUDA=1 asks for CUDA kernels, and no nvcc was found: name it in CUDACXX")
    return found


def plan(compiler: str | None, wanted: str) -> str:
    """What will be built, in one line."""
    if compiler:
        return f"htc_fast: building the CPU kernels and, with {compiler}, the CUDA kernels for {wanted}"
    why = "HTC_FAST_CUDA=0" if os.environ.get("HTC_FAST_CUDA") == "0" else "no nvcc was found"
    return f"htc_fast: building the CPU kernels only ({why}): CUDA tensors will use the Triton kernels"


def folder_name(wanted: str) -> str:
    """The build folder's last part: what is built for other architectures stays where it is."""
    return re.sub(r"[^0-9a-z]+", "-", wanted.lower()).strip("-") or "cpu"


def version_tag() -> dict[str, str]:
    """A wheel without CUDA kernels says so in its version: 1.0+cpu, which still is 1.0 to whoever asks for that."""
    wheel = {"bdist_wheel", "dist_info"} & set(sys.argv)
    return {"tag_build": "+cpu"} if wheel and os.environ.get("HTC_FAST_CUDA") == "0" else {}


def check_tools() -> None:
    """raises  SystemExit naming what the build needs and is not there, as without build isolation nobody installs it"""
    missing = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    missing += [] if importlib.util.find_spec("pybind11") else ["pybind11"]
    if missing:
        raise SystemExit(
            f"htc_fast: the native build needs {' and '.join(missing)}, not found here: pip install 'cmake>=3.24' "
            "ninja pybind11, or leave out --no-build-isolation, so that pip does it by itself"
        )


def cmake(*arguments: str) -> None:
    if subprocess.run(["cmake", *arguments]).returncode != 0:
        raise SystemExit(
            "htc_fast: the native build failed, see above (a C++20 compiler is needed; "
            "HTC_FAST_CUDA=0 leaves the CUDA kernels out)"
        )


class CMakeBuild(build_ext):
    def run(self) -> None:
        self.in_place = bool(self.inplace)  # setuptools clears the flag while it builds
        super().run()

    def copy_extensions_to_source(self) -> None:
        """CMake has already installed both libraries where they belong."""

    def build_extension(self, ext: Extension) -> None:
        in_place = getattr(self, "editable_mode", False) or self.in_place
        destination = SOURCE / "htc_fast" if in_place else Path(self.get_ext_fullpath(ext.name)).resolve().parent
        compiler = nvcc()
        wanted = architectures(compiler) if compiler else ""
        print(plan(compiler, wanted), file=sys.stderr, flush=True)
        check_tools()
        # One folder for every Python: the operators' library serves them all, and only _build is compiled for each.
        binary = SOURCE / "build" / f"cmake-{sysconfig.get_platform()}-{folder_name(wanted)}"
        configure = [
            "-S",
            str(SOURCE),
            "-B",
            str(binary),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            # What CMake found out about the Python before.
            "-U*Python_*",
            "-U*PYTHON_*",
            f"-DHTC_TORCH={torch_folder()}",
            f"-DHTC_DESTINATION={destination}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DHTC_CUDA={'ON' if compiler else 'OFF'}",
            # Build isolation puts ninja into a new folder each time, and CMake would remember the first.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        ]
        if compiler:
            configure += [
                f"-DCMAKE_CUDA_COMPILER={compiler}",
                f"-DCMAKE_CUDA_ARCHITECTURES={cuda_architectures(wanted)}",
            ]
        cmake(*configure)
        jobs = ["--parallel", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        cmake("--build", str(binary), "--target", "install", *jobs)

    def get_outputs(self) -> list[str]:
        folder = Path(self.get_ext_fullpath("htc_fast._build")).parent
        return [*super().get_outputs(), str(folder / "libhtc_fast_ops.so")]


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("htc_fast._build", sources=[])],
        cmdclass={"build_ext": CMakeBuild},
        options={"egg_info": version_tag()},
    )
