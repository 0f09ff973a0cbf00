"""Pictures larger than memory likes: reading them, predicting them by tiles, and what tiles are worth.

    python -m benchmarks.large_pictures --weights runs/sample/model.safetensors [--side 20000]
                                        [--only reading|predicting|ap] [--out folder] [--tiny]

On a CPU; results in the device's large_pictures.json, each row as soon as it is known, and each from a process of its
own. The large picture is a mosaic of the sample's pictures, made in a temporary folder (4 bytes a pixel, for
PNG and TIFF together). Seconds begin behind the imports. --tiny: a toy, stored only where --out says so.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import htc_fast
from benchmarks import mosaics, stored
from benchmarks.buckets import held, most
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data import CocoDataset, make_sample_dataset
from htc_fast.data.windows import open_windows
from htc_fast.errors import UserError, check_count
from htc_fast.evaluation import coco
from htc_fast.inference.tiles import Tiling
from htc_fast.predict import PredictionRun, predict

SUITE = "large_pictures"
DETECTIONS = 400  # that count in a mosaic and class
Task = tuple[str, str, dict[str, Any]]  # part, case, what the part's function takes


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20000, help="pixels")
    parser.add_argument("--weights", type=Path, help="a detector trained on the sample; not for reading")
    parser.add_argument("--only", choices=PARTS, help="leave out the other parts")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="a toy: to see that it runs")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, words = options.one
        print(json.dumps(PARTS[part](**json.loads(words))))
        return 0
    check_count("--side", options.side, least=512, most=40000)
    asked = [options.only] if options.only else list(PARTS)
    if options.weights is None and not options.tiny and asked != ["reading"]:
        raise UserError("--weights is missing: `python -m htc_fast.train` makes runs/sample/model.safetensors for it.")
    if options.weights is not None and not options.weights.is_file():
        raise UserError(f"--weights: there is no file {options.weights}.")
    device = torch.device("cpu")
    keep = options.out or not options.tiny
    path = stored.folder(device, options.out) / f"{SUITE}.json" if keep else None
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or mosaics.toy_weights(Path(folder) / "toy.safetensors")
        return measure(asked, Path(folder), options.side, weights, options.tiny, path)


def measure(asked: list[str], folder: Path, side: int, weights: Path, tiny: bool, path: Path | None) -> int:
    """Measure and store the rows of some parts.

    returns  how many rows failed
    raises   UserError where two ways of reading give different pixels
    """
    failed = 0
    checks: dict[str, int] = {}
    for part, case, words in tasks(asked, folder, side, weights, tiny):
        print(f"{part}: {case} …", file=sys.stderr, flush=True)
        found = apart(part, words)
        if isinstance(found, str):
            failed += 1
            print(f"{part}: {case}: {found}", file=sys.stderr)
            continue
        if "check" in found:
            checks[case] = found.pop("check")
        if len(set(checks.values())) > 1:
            raise UserError(f"the pixels of {' and '.join(checks)} differ: one of them is read wrongly.")
        row = {"part": part, "case": case, **found}
        if path is not None:
            stored.add(path, torch.device("cpu"), [row], ("part", "case"))
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return failed


def tasks(asked: list[str], folder: Path, side: int, weights: Path, tiny: bool) -> Iterator[Task]:
    """Every row; files are made when the first one needs them."""
    tile, beside = (256, 512) if tiny else (1024, 2048)
    forms = {"PNG": folder / "large.png", "TIFF": folder / "large.tif"}
    if importlib.util.find_spec("tifffile") is None:
        print("TIFF is left out: pip install tifffile imagecodecs.", file=sys.stderr)
        del forms["TIFF"]
    if {"reading", "predicting"} & set(asked):
        print(f"making a picture of {side} x {side} pixels …", file=sys.stderr, flush=True)
        mosaics.write_large(list(forms.values()), side)
    if "reading" in asked:
        for form, place in forms.items():
            for whole, how in ((False, "by bands"), (True, "whole, by Pillow")):
                words = {"path": str(place), "side": side, "whole": whole, "tile": tile}
                yield "reading", f"{form}, {how}", words
    if "predicting" in asked:
        small = folder / "small.png"
        mosaics.write_large([small], beside)
        for form, place in {"a smaller PNG": small, **forms}.items():
            for overlay, how in ((False, "no overlay"), (True, "with overlay")):
                words = {"path": str(place), "side": beside if place == small else side, "tile": tile}
                out = str(folder / f"{place.name}-{overlay}")
                yield "predicting", f"{form}, {how}", {**words, "weights": str(weights), "overlay": overlay, "out": out}
    if "ap" in asked:
        yield from scores(folder, str(weights), 16 if tiny else 48)


def scores(folder: Path, weights: str, pictures: int) -> Iterator[Task]:
    """The rows of AP, mosaics being made."""
    root, side, cell = str(folder / "mosaics"), mosaics.CELL * mosaics.ACROSS, mosaics.CELL
    mosaics.make_mosaics(Path(root), pictures)
    same = {"weights": weights, "pictures": pictures}
    yield "ap", "each picture alone", {**same, "data": None, "size": None, "tile": None}
    yield "ap", "mosaic, at the model's size", {**same, "data": root, "size": None, "tile": None}
    yield "ap", f"mosaic, at {side} pixels", {**same, "data": root, "size": [side] * 2, "tile": None}
    tiled = f"mosaic, `--tile {cell} --image-size {cell} {cell}`"
    yield "ap", tiled, {**same, "data": root, "size": [cell] * 2, "tile": cell}


def apart(part: str, words: dict) -> dict | str:
    """A row, from a process of its own, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.large_pictures", "--one", part, json.dumps(words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    # Killed for memory, it says nothing itself.
    return f"failed with status {done.returncode}" if done.returncode else json.loads(done.stdout.splitlines()[-1])


def bands(path: str, whole: bool, tile: int) -> Iterator[np.ndarray]:
    """Each row of a picture once, read as `predict --tile` does, or by Pillow at once."""
    if whole:
        with Image.open(path) as one:
            yield np.asarray(one)
        return
    done = 0
    with open_windows(path, small=0) as picture:
        if picture.kind == "whole":
            raise UserError(f"{path} cannot be read by bands.")
        for top in Tiling(tile).starts(picture.size[0]):
            bottom = min(top + tile, picture.size[0])
            yield picture.read(top, bottom)[done - top :]
            done = bottom


def read(path: str, side: int, whole: bool, tile: int) -> dict[str, Any]:
    """Seconds, MB above what was there before, and what tells the pixels from others."""
    Image.MAX_IMAGE_PIXELS = None
    with open_windows(path, small=0) as picture:
        picture.read(0, 1)  # imports what reading needs
    before, check, seconds = held(), 0, 0.0
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    for band in bands(path, whole, tile):
        seconds += time.perf_counter() - began
        check = zlib.crc32(band.data, check)
        began = time.perf_counter()
    return {"side": side, "s": round(seconds, 1), "MB": round(most() - before), "check": check}


def look(path: str, weights: str, side: int, tile: int, overlay: bool, out: str) -> dict[str, Any]:
    """Seconds and peak MB of the whole process that runs `predict --tile`."""
    places: dict[str, Any] = {"pictures": (path,), "weights": (Path(weights),), "out": Path(out)}
    began, worked = time.perf_counter(), time.process_time()
    if predict(PredictionRun(**places, tile=tile, overlays=overlay, device="cpu")):
        raise UserError(f"{path} was skipped.")
    found = {"s": round(time.perf_counter() - began, 1), "core s": round(time.process_time() - worked, 1)}
    peak, instances = round(most()), json.loads((Path(out) / "results.json").read_text())
    return {"side": side, "tile": tile, **found, "MB": peak, "instances": len(instances)}


def score(data: str | None, weights: str, pictures: int, size: list[int] | None, tile: int | None) -> dict[str, Any]:
    """AP over the sample's held-out pictures, or over mosaics of them."""
    model, began = htc_fast.load(weights, device="cpu"), time.perf_counter()
    dataset = CocoDataset(data or make_sample_dataset(), "val", semantic="none", keep_empty=True)
    more: dict[str, Any] = {"limit": None if data else pictures, "size": None if size is None else tuple(size)}
    found = coco.evaluate(model, dataset, tile=tile, max_detections=DETECTIONS, **more)
    scores = {name: round(found[name], 4) for name in ("box_AP", "mask_AP")}
    return {"pictures": pictures, **scores, "s": round(time.perf_counter() - began, 1)}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"reading": read, "predicting": look, "ap": score}

if __name__ == "__main__":
    entry.run(main)
