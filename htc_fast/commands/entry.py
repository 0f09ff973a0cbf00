"""How every command begins and ends: bad input is one sentence, and the exit status says what happened."""

import io
import os
import sys
from collections.abc import Callable

from htc_fast.device import out_of_memory
from htc_fast.errors import UserError

INTERRUPTED = 130  # as a shell names a program that Ctrl-C ended: `train && evaluate` must not go on


def run(main: Callable[[], int | None]) -> None:
    """Run a command line: bad input and a lack of memory or disk are one line on stderr and status 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding lacks, in a name of a class or a file, is shown as \xe4 and ends no command.
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}{about_encoding(str(error))}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        first = next(iter(str(error).strip().splitlines()), "out of memory.")
        advice = "Lower --batch-size or --image-size, or use --amp, where this command has them."
        print(f"error: {first} {advice}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python must not write to it again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot read or write{place} ({error.strerror or error}): check room and rights.", file=sys.stderr
        )
        sys.exit(2)
    except UnicodeEncodeError as error:
        print(
            f"error: this system's encoding, {error.encoding}, cannot say {error.object!r}, which may be the name of a "
            "file: set the environment's PYTHONUTF8=1 or a UTF-8 locale.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def about_encoding(sentence: str) -> str:
    """A remark where a name in the sentence may be why a file was not found."""
    encoding = sys.getfilesystemencoding()
    if sentence.isascii() or encoding in ("utf-8", "mbcs"):
        return ""
    return f" File names are read as {encoding} here: the environment's PYTHONUTF8=1 reads them as UTF-8."
