"""Non-maximum suppression."""

from htc_fast.ops.reference.nms import batched_nms, batched_nms_padded  # noqa: F401
