"""Data: COCO-format data sets, transforms, batches, and a data set to try everything on."""

from htc_fast.data.coco import CocoDataset
from htc_fast.data.pictures import load_image, preprocess
from htc_fast.data.sample import make_sample_dataset
from htc_fast.data.transforms import train_transform

__all__ = ["CocoDataset", "load_image", "make_sample_dataset", "preprocess", "train_transform"]
