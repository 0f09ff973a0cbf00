"""Data: COCO-format data sets, transforms, batches, and a data set to try everything on."""

from htc_fast.data.coco import CocoDataset
from htc_fast.data.pictures import load_image, preprocess

__all__ = ["CocoDataset", "load_image", "preprocess"]
