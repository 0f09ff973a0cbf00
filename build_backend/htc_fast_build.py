"""setuptools' build backend, plus torch as a build requirement only where the target environment lacks it.

Under pip's build isolation `sysconfig` still names the target environment's site-packages, so an installed torch
is found there, its headers are used, and nothing is downloaded a second time.
"""

import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _torch() -> list[str]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return [] if any((Path(folder) / "torch" / "include").is_dir() for folder in folders) else ["torch>=2.11"]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()
