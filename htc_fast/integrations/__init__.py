"""Other libraries' detectors over these operators: whole models by `accelerate`, poolings alone by `replace_pooling`, and
what stands in for mmcv's compiled extension.

Each module needs nothing of the others, and is imported on its own:
`from htc_fast.integrations.torchvision import accelerate`.
"""
