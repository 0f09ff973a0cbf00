"""What a data set has to say while it is being read, each sentence once."""

import os
import sys

_said: set[str] = set()


def say_once(sentence: str) -> None:
    """Print a sentence to stderr, unless this process has said it or is not the leading one."""
    if sentence not in _said and os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr)
    _said.add(sentence)
