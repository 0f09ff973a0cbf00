"""Fill the tables of README.md and docs/*.md from benchmarks/results.

    python -m benchmarks.tables            write them between <!-- bench:NAME --> and <!-- /bench -->, draw docs/*.png
    python -m benchmarks.tables --check    fail if a page or a picture and the results disagree

Where results of several devices are stored, a table shows those of the CPU and of the GPU that were measured last.
"""

import argparse

from benchmarks.tables import pages
from htc_fast.commands import entry
from htc_fast.commands.options import Parser


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    print("\n".join(pages.devices()))
    stale = pages.refresh(write=not check)
    if check:
        agree = "README.md, docs and benchmarks/results agree"
        print(f"{', '.join(stale)}: not what benchmarks/results holds; run `make bench-tables`" if stale else agree)
    return int(check and bool(stale))


if __name__ == "__main__":
    entry.run(main)
