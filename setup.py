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

DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


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
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: {entry!r} is not an architecture like 9.0 or 9.0+PTX")
        name = known[1] + known[2]
        out += [f"{name}-real"] + ([f"{name}-virtual"] if known[3] else [])
    return ";".join(out)


def default_architectures(compiler: str) -> str:
    """Those of DEFAULT_ARCHITECTURES that this nvcc knows, PTX for the newest of them."""
    listed = subprocess.run([compiler, "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = set(re.findall(r"compute_(\d+)", listed))
    names = DEFAULT_ARCHITECTURES.removesuffix("+PTX").split(";")
    return ";".join([name for name in names if name.replace(".", "") in known] or names) + "+PTX"


def nvcc() -> str | None:
    """The CUDA compiler, from CUDACXX, CUDA_HOME or PATH; HTC_FAST_CUDA=0 builds without it."""
    if os.environ.get("HTC_FAST_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def plan(compiler: str | None) -> str:
    """What will be built, in one line."""
    if compiler:
        return f"htc_fast: building the CPU kernels and, with {compiler}, the CUDA kernels"
    why = "HTC_FAST_CUDA=0" if os.environ.get("HTC_FAST_CUDA") == "0" else "no nvcc was found"
    return f"htc_fast: building the CPU kernels only ({why}): CUDA tensors will use the Triton kernels"


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
        binary = SOURCE / "build" / f"cmake-{sysconfig.get_platform()}-{sys.version_info[0]}.{sys.version_info[1]}"
        compiler = nvcc()
        print(plan(compiler), file=sys.stderr, flush=True)
        configure = [
            "-S",
            str(SOURCE),
            "-B",
            str(binary),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DHTC_TORCH={torch_folder()}",
            f"-DHTC_DESTINATION={destination}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DHTC_CUDA={'ON' if compiler else 'OFF'}",
            # Build isolation puts ninja into a new folder each time, and CMake would remember the first.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        ]
        if compiler:
            wanted = os.environ.get("TORCH_CUDA_ARCH_LIST") or default_architectures(compiler)
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


setup(ext_modules=[Extension("htc_fast._build", sources=[])], cmdclass={"build_ext": CMakeBuild})
