"""What has to be said to libraries before they are imported."""

import os
from pathlib import Path

# Where there is no GPU, Triton kernels run in Triton's interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Threads sleep while they wait for one another. Spinning, as is the default, a training step took four to eight times
# as long on two cores that had something else to do besides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
