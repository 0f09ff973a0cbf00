"""Other libraries' detectors over these operators: whole models by `accelerate`, poolings alone by `replace_pooling`.

`mmcv` is what stands in for the compiled extension of that name.

Each module needs nothing of the others, and is imported on its own:
`from htc_fast.integrations.torchvision import accelerate`.
"""
