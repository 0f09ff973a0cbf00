"""Instances in the formats of other tools, a file each; `Instances` has these functions as methods."""
