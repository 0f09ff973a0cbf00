"""Weights from files: ours and other libraries' checkpoints, and the ImageNet weights that a package carries."""
