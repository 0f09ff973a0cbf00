"""Calls CMake, nothing else: all native code is described in CMakeLists.txt."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def torch_folder() -> Path:
    """The target environment's torch; under build isolation without one, the build environment's."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        if (Path(folder) / "torch" / "include").is_dir():
            return Path(folder) / "torch"
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("htc_fast builds against PyTorch's headers, and torch is not installed: pip install torch")
    return Path(spec.origin).parent


def cuda_architectures(wanted: str) -> str:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") in CMake's words ("80-real;90-real;90-virtual")."""
    out = []
    for entry in wanted.replace(" ", ";").replace(",", ";").split(";"):
        name = entry.removesuffix("+PTX").replace(".", "")
        if name:
            out += [f"{name}-real"] + ([f"{name}-virtual"] if entry.endswith("+PTX") else [])
    return ";".join(out)


def nvcc() -> str | None:
    """The CUDA compiler, from CUDACXX, CUDA_HOME or PATH; HTC_FAST_CUDA=0 builds without it."""
    if os.environ.get("HTC_FAST_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


class CMakeBuild(build_ext):
    def run(self) -> None:
        self.in_place = bool(self.inplace)  # setuptools clears the flag while it builds
        super().run()

    def copy_extensions_to_source(self) -> None:
        """CMake has already installed both libraries where they belong."""

    def build_extension(self, ext: Extension) -> None:
        source = Path(__file__).resolve().parent
        in_place = getattr(self, "editable_mode", False) or self.in_place
        destination = source / "htc_fast" if in_place else Path(self.get_ext_fullpath(ext.name)).resolve().parent
        binary = source / "build" / f"cmake-{sysconfig.get_platform()}-{sys.version_info[0]}.{sys.version_info[1]}"
        compiler = nvcc()
        print("htc_fast: building the CPU kernels" + (f" and, with {compiler}, the CUDA kernels" if compiler else
              "; no nvcc was found, so CUDA tensors will use the Triton kernels"), file=sys.stderr)
        architectures = cuda_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES)
        configure = [
            "cmake", "-S", str(source), "-B", str(binary), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DHTC_TORCH={torch_folder()}", f"-DHTC_DESTINATION={destination}",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DHTC_CUDA={'ON' if compiler else 'OFF'}",
            *([f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"] if compiler else []),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(binary), "--target", "install"], check=True)

    def get_outputs(self) -> list[str]:
        folder = Path(self.get_ext_fullpath("htc_fast._build")).parent
        return [*super().get_outputs(), str(folder / "libhtc_fast_ops.so")]


setup(ext_modules=[Extension("htc_fast._build", sources=[])], cmdclass={"build_ext": CMakeBuild})
