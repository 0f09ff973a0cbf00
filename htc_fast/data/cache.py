"""Where the package keeps what it has made: in the user's cache."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/htc_fast, or ~/.cache/htc_fast."""
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG rules say that a relative path is to be ignored.
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "htc_fast"
