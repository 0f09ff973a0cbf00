"""transformers' Mask2Former and EoMT: instances as run lengths, straight from the queries' logits.

transformers itself is not needed. Its processors resize twice: first to the size of the network's input, then from
there to the picture. With resize="once" the picture's pixels come from the queries' own map, so that edges are smoother
and no map of that size is ever built; with resize="twice" every pixel is where transformers has it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.errors import choose
from htc_fast.integrations import _found

WAYS = "once", "twice"
INPUT = 384, 384  # what Mask2Former's processor takes every network's input for


def mask2former_instances(
    outputs: Any,
    target_sizes: Any,
    threshold: float = 0.5,
    resize: str = "once",
    class_names: Sequence[str] = (),
) -> list[Instances]:
    """What Mask2FormerImageProcessor.post_process_instance_segmentation finds, each mask whole, as RLE.

    outputs       of Mask2FormerForUniversalSegmentation: class_queries_logits [B, Q, C + 1], masks_queries_logits
                  [B, Q, h, w]
    target_sizes  height, width of each picture
    threshold     scores below it are left out
    resize        "once": bilinear from the queries' map to the picture; "twice": as theirs, bilinear to 384 x 384,
                  above 0, then the nearest pixel
    returns       B Instances, best first, boxes around the masks; scores and labels are theirs
    raises        ValueError
    """
    way, made = choose(resize, WAYS, "resize"), []
    classes, maps = outputs.class_queries_logits.detach().float(), outputs.masks_queries_logits.detach().float()
    for index, size in enumerate(_found.pairs(target_sizes, len(classes))):
        likely = classes[index].softmax(dim=-1)[:, :-1]
        scores, order = likely.flatten().topk(likely.shape[0], sorted=False)
        queries, labels = order // likely.shape[1], order % likely.shape[1]
        # What a mask is sure of, at most 1, comes on top.
        queries, labels, scores = _above(threshold, scores, queries, labels, scores)
        sure = torch.cat([_sure(one) for one in _resized(maps[index], queries, INPUT)] or [scores])
        queries, labels, scores = _above(threshold, scores * sure, queries, labels, scores * sure)
        rles = _found.once(maps[index], queries, _straight(size) if way == "once" else _nearest(size))
        made.append(_found.instances(scores, labels, rles, size, None, class_names))
    return made


def eomt_instances(
    outputs: Any,
    target_sizes: Any,
    threshold: float = 0.8,
    input_size: tuple[int, int] = (640, 640),
    resize: str = "once",
    class_names: Sequence[str] = (),
) -> list[Instances]:
    """What EomtImageProcessor.post_process_instance_segmentation finds, each mask whole, as RLE.

    outputs       of EomtForUniversalSegmentation: class_queries_logits [B, Q, C + 1], masks_queries_logits [B, Q, h, w]
    target_sizes  height, width of each picture
    threshold     scores below it are left out
    input_size    the processor's size: shortest edge, longest edge
    resize        "once": bilinear from the queries' map to the picture, and scores from the network's input; "twice":
                  as theirs, bilinear to the network's input and from there to the picture, where scores come from too
    returns       B Instances, best first, boxes around the masks; with "twice" scores and labels are theirs
    raises        ValueError
    """
    way, made = choose(resize, WAYS, "resize"), []
    classes, maps = outputs.class_queries_logits.detach().float(), outputs.masks_queries_logits.detach().float()
    rows, columns = maps.shape[2:]
    for index, size in enumerate(_found.pairs(target_sizes, len(classes))):
        scores, labels = classes[index].softmax(dim=-1)[:, :-1].max(dim=-1)
        queries = torch.arange(len(scores), device=scores.device)
        queries, labels, scores = _above(threshold, scores, queries, labels, scores)
        high, wide = fitted(size, input_size)
        inner = (one[:, :high, :wide] for one in _resized(maps[index], queries, input_size))
        if way == "twice":
            seen = [_seen(F.interpolate(one[None], size, mode="bilinear")[0]) for one in inner]
            sure, rles = torch.cat([one for one, _ in seen] or [scores]), [rle for _, some in seen for rle in some]
        else:
            part = (0, 0, columns * min(1, wide / input_size[1]), rows * min(1, high / input_size[0]))
            sure = torch.cat([_sure(one) for one in inner] or [scores])
            rles = ops.encode_logits(maps[index][queries], size, crop=part)
        scores, kept = scores * sure, (scores * sure).double() >= threshold
        rles = [rle for rle, keep in zip(rles, kept.tolist(), strict=True) if keep]
        made.append(_found.instances(scores[kept], labels[kept], rles, size, None, class_names))
    return made


def fitted(size: tuple[int, int], input_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture inside the input: the shorter edge as asked, the longer at most as asked."""
    (short, long), (shortest, longest) = sorted(size), input_size
    exact: float = shortest
    if float(long) / float(short) * shortest > longest:
        exact = longest * float(short) / float(long)
    edge = round(exact)
    # The edge that is rounded first is the shorter one; the other follows from it as it was before.
    pair = (short, long) if short == edge else (edge, int(exact * long / short))
    return pair if size[0] <= size[1] else (pair[1], pair[0])


def _above(threshold: float, measure: Tensor, *of: Tensor) -> list[Tensor]:
    # As doubles, as a number taken out of a tensor is compared.
    kept = measure.double() >= threshold
    return [one[kept] for one in of]


def _resized(maps: Tensor, queries: Tensor, size: tuple[int, int]) -> Iterable[Tensor]:
    """The maps of queries, [1, height, width] at a time."""
    for query in queries.tolist():
        yield F.interpolate(maps[None, query : query + 1], size, mode="bilinear")[0]


def _sure(logits: Tensor) -> Tensor:
    """[1, h, w] -> [1]: the mean probability of the pixels of a mask."""
    inside = logits[logits > 0]
    return (inside.sigmoid().sum() / (len(inside) + 1e-6)).reshape(1)


def _seen(logits: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    return _sure(logits), ops.encode(logits > 0)


def _straight(size: tuple[int, int]) -> Any:
    return lambda maps: ops.encode_logits(maps, size)


def _nearest(size: tuple[int, int]) -> Any:
    def encode(maps: Tensor) -> list[dict[str, Any]]:
        rles = []
        for index in range(len(maps)):
            [mask] = _resized(maps, torch.tensor([index]), INPUT)
            rles += ops.encode(F.interpolate((mask > 0).float()[None], size, mode="nearest")[0].bool())
        return rles

    return encode
