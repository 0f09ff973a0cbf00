"""A real browser without a window: what a page looks like. Tests that need one are skipped where none is installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")


def screenshot(page: Path, picture: Path, width: int = 1280, height: int = 2000) -> np.ndarray:
    """The page as the browser shows it, [height, width, 3]; also saved as a PNG."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={picture.parent / 'browser'}", f"--window-size={width},{height}"]
    command += ["--disable-background-networking", f"--screenshot={picture}", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and picture.exists(), done.stderr
    return np.asarray(Image.open(picture).convert("RGB"))
