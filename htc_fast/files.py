"""Writing results."""

import json
import os
from pathlib import Path

from htc_fast.errors import UserError


def write_json(path: Path, content: object) -> None:
    """Write JSON so that the name never holds half of it.

    raises  UserError if it cannot be written
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another --out.") from None
