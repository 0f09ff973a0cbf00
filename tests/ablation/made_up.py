"""A result as an ablation leaves it, of numbers that a test chooses."""

from htc_fast.ablation.tables import METRICS


def scores(model, seed, mask_ap, stages=("ensemble",), **other):
    numbers = {**dict.fromkeys(METRICS.values(), 0.5), "mask_AP": mask_ap, "pictures": 8, "seconds": 1.0, **other}
    return {
        "model": model,
        "seed": seed,
        "iterations": 10,
        "training seconds": 2.0,
        "processor seconds": 2.5,
        "stages": dict.fromkeys(stages, numbers),
    }


def result(runs, tables=(2,)):
    settings = {"image_size": [64, 64], "crop": None, "set": {}, "batch_size": 2, "backbone": None}
    settings |= {"optimizer": "adamw", "training data": "4 pictures (checksum 00000000)"}
    machine = {"device": "somewhere", "date": "2026-01-02", "torch": "2.0"}
    about = {"data": "made up", "machine": machine, "settings": settings, "jobs": 2}
    return {**about, "tables": list(tables), "runs": runs}
