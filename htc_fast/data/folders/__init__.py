"""Data as it lies there: what annotation tools write is recognised and becomes COCO JSON in the user's cache."""
