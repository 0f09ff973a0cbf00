"""Pictures beside maps of numbers, as Cellpose and nuclei's data sets have them, and folders of a bitmap per object."""

import os
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from htc_fast.data import runs
from htc_fast.data.folders.listing import Found, Listing, progress, sizes_of
from htc_fast.data.folders.maps import crop_to_rle, instances_of, read_map
from htc_fast.data.folders.tree import Tree, split_in
from htc_fast.data.names import folded
from htc_fast.errors import UserError

CLASS = "object"  # there are no names in maps
MAPS = (".png", ".tif", ".tiff", ".bmp")
# Cellpose's, and what others call them: a_masks.png beside a.png or a_img.png.
_SUFFIX = re.compile(r"[_-](?:cp_masks|masks?|labels?|instances?)$", re.IGNORECASE)
_PICTURE = re.compile(r"[_-](?:img|image|raw)$", re.IGNORECASE)
PICTURES_IN = ("images", "image", "imgs", "img", "rawimages", "raw")
MAPS_IN = ("masks", "mask", "labels", "label", "instances", "groundtruth", "ground_truth", "gt", "annotations")


class Pair(NamedTuple):
    """A picture, and its label map or the bitmaps of its objects."""

    picture: str
    maps: tuple[str, ...]
    split: str | None


def looks_like(tree: Tree) -> bool:
    """Whether any picture has a label map."""
    return bool(_pairs(tree))


def looks_like_bitmaps(tree: Tree) -> bool:
    """Whether there are folders with images/ of one picture and masks/ of its objects."""
    return bool(_bitmaps(tree)) and not _pairs(tree)


def read(tree: Tree) -> Found:
    """Read pictures beside label maps: a number is an object, 0 is nothing.

    raises  UserError where nothing of it can be used
    """
    listing = Listing("pictures beside label maps", tree.root, [CLASS])
    pairs = _pairs(tree)
    values: set[int] = set()
    scattered = 0
    for pair in progress(pairs, "label maps"):
        found = _read_map(tree, pair.maps[0], listing)
        if found is None or not _fits(tree, pair.picture, found.shape, listing):
            continue
        numbers, rles = instances_of(found)
        values.update(numbers[:3].tolist() if len(numbers) else [])
        scattered += _scattered(rles)
        listing.add(pair.picture, found.shape, pair.split, [(CLASS, rle) for rle in rles])
    if len(values) == 1:
        listing.said.append(
            f"all label maps hold the number {values.pop()} alone, so each picture is read as one object; where it "
            "shows several, give each a number of its own."
        )
    if 2 * scattered > listing.total:
        listing.said.append(
            f"{scattered} of {listing.total} objects are scattered over their pictures: every number is read as one "
            "object, which suits neither maps of classes nor maps whose edges were smoothed."
        )
    _say_left_out(tree, pairs, listing)
    return listing.found()


def _scattered(rles: list[dict]) -> int:
    """How many of the masks cross a column of their boxes more than twice on average."""
    if not rles:
        return 0
    crossed = runs.read(rles).offsets.diff().tolist()
    return sum(count > 2 * (right - left) for count, (left, _, right, _) in zip(crossed, runs.sizes(rles)[1]))


def read_bitmaps(tree: Tree) -> Found:
    """Read folders of one picture and a bitmap per object, as the Data Science Bowl of 2018 has them.

    raises  UserError where nothing of it can be used
    """
    listing, pairs = Listing("a folder per picture with a mask per object", tree.root, [CLASS]), _bitmaps(tree)
    for pair in progress(pairs, "masks"):
        try:
            size = sizes_of(tree.root / pair.picture)[0]
        except UserError:
            listing.refuse("that cannot be read", pair.picture)
            continue
        rles = []
        for name in pair.maps:
            found = _read_map(tree, name, listing, "with a mask that cannot be read")
            if found is not None and found.shape == size:
                rles.append((CLASS, crop_to_rle(found, (0, 0), size)))
            elif found is not None:
                listing.drop("of another size than their picture", name)
        for _ in (one for one in rles if one[1] is None):
            listing.drop("without a pixel", pair.picture)
        listing.add(pair.picture, size, pair.split, [one for one in rles if one[1] is not None])
    _say_left_out(tree, pairs, listing)
    return listing.found()


def _read_map(tree: Tree, name: str, listing: Listing, reason: str = "") -> np.ndarray | None:
    try:
        return read_map(tree.root / name)
    except UserError as error:
        if reason:
            listing.drop(reason, name)
        else:
            listing.refuse("with a label map that cannot be used", str(error).split(": ")[0].removeprefix("label map "))
        return None


def _fits(tree: Tree, name: str, size: tuple[int, ...], listing: Listing) -> bool:
    try:
        fits = size in sizes_of(tree.root / name)
    except UserError:
        listing.refuse("that cannot be read", name)
        return False
    if not fits:
        listing.refuse("of another size than their label maps", name)
    return fits


def _say_left_out(tree: Tree, pairs: list[Pair], listing: Listing) -> None:
    used = {name for pair in pairs for name in (pair.picture, *pair.maps)}
    left = [name for name in tree.pictures if name not in used]
    if left:
        listing.said.append(f"{len(left)} picture files have no partner and are left out, such as {left[0]}.")


def _pairs(tree: Tree) -> list[Pair]:
    """Pictures with their maps: by a suffix beside them, or of the same name in a folder beside theirs."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in tree.pictures:
        by_stem[folded(os.path.splitext(name)[0])].append(name)
    pairs: dict[str, Pair] = {}
    maps = [name for name in tree.pictures if name.lower().endswith(MAPS)]
    numbered = {name for pair in _bitmaps(tree) for name in pair.maps if _stem(name) == _stem(pair.picture)}
    for name in maps:
        if name in numbered:
            continue
        stem = os.path.splitext(name)[0]
        for one in _partners(stem):
            there = [found for found in by_stem.get(folded(one), []) if found != name]
            # Of two pictures of one name, either may be meant.
            if len(there) == 1 and there[0] not in pairs:
                pairs[there[0]] = Pair(there[0], (name,), split_in(there[0]) or split_in(name))
                break
    used = {pair.maps[0] for pair in pairs.values()}
    return sorted(pair for pair in pairs.values() if pair.picture not in used)


def _partners(stem: str) -> list[str]:
    """What the picture of a map may be called, both without suffix."""
    found = []
    place, name = os.path.split(stem)
    bare = _SUFFIX.sub("", name)
    if bare != name:
        found += [os.path.join(place, bare + more) for more in ("", "_img", "_image", "_raw")]
    parts = place.split("/")
    for level, part in enumerate(parts):
        if part.casefold() in MAPS_IN:
            for folder in PICTURES_IN:
                other = "/".join([*parts[:level], folder, *parts[level + 1 :]])
                found += [f"{other}/{one}" for one in dict.fromkeys((name, bare, _PICTURE.sub("", bare)))]
    return found


def _bitmaps(tree: Tree) -> list[Pair]:
    folders: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"images": [], "masks": []})
    for name in tree.pictures:
        parts = name.split("/")
        if len(parts) >= 3 and parts[-2].lower() in ("images", "masks"):
            folders["/".join(parts[:-2])][parts[-2].lower()].append(name)
    # A mask of the picture's own name is a label map, but where several of one picture have numbers for names.
    flat = any(len(one["images"]) > 1 for one in folders.values())
    found = []
    for one in folders.values():
        pictures, masks = one["images"], one["masks"]
        if len(pictures) == 1 and masks:
            own = _stem(pictures[0]) in map(_stem, masks)
            if not own or (len(masks) > 1 and not flat):
                found.append(Pair(pictures[0], tuple(masks), split_in(pictures[0])))
    return sorted(found)


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]
