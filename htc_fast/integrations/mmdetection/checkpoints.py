"""What mmengine's training leaves besides weights, for torch's reader that executes nothing."""

import torch

MADE_BY = ("_reconstruct", "scalar")  # numpy's, of arrays and numbers


def allow_checkpoints() -> None:
    """Let `torch.load(path)`, with its default weights_only=True, read files of mmengine's Runner: loss histories too.

    From torch 2.6 on mmengine 0.10.7 cannot resume or load what it wrote itself; onedl-mmengine asks for no check at
    all. Here the check stays: the classes that such a file names are allowed, and nothing else.

    raises  ImportError without mmengine
    """
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    def method(owner: type, name: str) -> object:
        # Files name a history's own statistics through getattr, which as it is would reach everything.
        if owner is not HistoryBuffer or name.startswith("_"):
            raise ValueError(f"a checkpoint may name the methods of HistoryBuffer alone, got {owner!r}.{name}.")
        return getattr(owner, name)

    core = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    names = [(getattr(core, name), f"numpy.{home}.multiarray.{name}") for home in ("core", "_core") for name in MADE_BY]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    allowed = [HistoryBuffer, np.ndarray, np.dtype, *kinds, *names, (method, "builtins.getattr")]
    torch.serialization.add_safe_globals(allowed)
