"""Memory does not grow with the number of tiles."""

import subprocess
import sys

FREED = """
import resource
import numpy as np
from htc_fast.data.windows import Windows
from htc_fast.inference.predict import stream_tiles
from htc_fast.inference.tiles import Tiling
from tests.inference.fake import Fake

class Forgetful(Fake):
    def detect(self, images, image_sizes):
        self.seen.clear()
        return super().detect(images, image_sizes)

picture = Windows.whole(np.broadcast_to(np.zeros(3, np.uint8), (5760, 5760, 3)))
parts, peaks = [Windows((side, side), picture._read) for side in (2304, 5760)], []
options = {"size": (512, 512), "score_threshold": 0.95}
for _, found in stream_tiles(Forgetful(), [0, 1], parts.__getitem__, Tiling(512, 0.25), **options):
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(len(found), peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_tiles():
    """36 tiles and then 225, of which each takes 3 MB for a while."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[1]) < 130, f"{done.stdout} MB"
