"""RoI pooling of other detectors, over these operators: modules with the peers' names, arguments and results.

Each file needs nothing of the detector it is for, and is imported on its own:
`from htc_fast.integrations.torchvision import replace_pooling`.
"""
