"""setuptools' build backend, plus torch as a build requirement only where no torch is installed.

Under pip's build isolation `sysconfig` still names the target environment's site-packages, and under `python -m build`
VIRTUAL_ENV the one it was called from: a torch there lends its headers, and nothing is downloaded a second time.
HTC_FAST_TORCH names another torch folder: the stable ABI is the same for every Python, so one serves all wheels.
"""

import os
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def installed_torch() -> Path | None:
    """The folder of an installed torch package with its headers."""
    if named := os.environ.get("HTC_FAST_TORCH"):
        if not (Path(named) / "include").is_dir():
            raise SystemExit(f"HTC_FAST_TORCH={named} is no torch package: give the folder with its include/")
        return Path(named)
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if base := os.environ.get("VIRTUAL_ENV"):
        folders.append(sysconfig.get_path("purelib", "posix_prefix", vars={"base": base, "platbase": base}))
    found = (Path(folder) / "torch" for folder in folders)
    return next((torch for torch in found if (torch / "include").is_dir()), None)


def _torch() -> list[str]:
    return [] if installed_torch() else ["torch>=2.11"]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()
