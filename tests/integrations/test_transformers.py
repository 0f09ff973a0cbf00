"""Mask2Former's and EoMT's instances beside transformers' own processors."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor
from transformers.models.mask2former.image_processing_mask2former import Mask2FormerImageProcessor

from htc_fast.integrations.transformers import eomt_instances, fitted, mask2former_instances
from tests.integrations import rle_cases as cases

SIZES = [(90, 133), (411, 260)]


def in_order(segments, found):
    """Where each of their segments is among ours, by its score."""
    scores = torch.tensor([one["score"] for one in segments], dtype=torch.float64)
    assert len(found) == len(segments) > 1
    places = (scores[:, None] - found.scores.double()).abs().argmin(dim=1)
    assert sorted(places.tolist()) == list(range(len(found)))
    assert torch.allclose(found.scores.double()[places], scores, atol=2e-6)
    assert found.labels[places].tolist() == [one["label_id"] for one in segments]
    return places.tolist()


@pytest.mark.parametrize("seed", cases.SEEDS)
def test_mask2former_is_theirs_when_resized_twice(seed):
    outputs = cases.queries(seed=seed)
    process = Mask2FormerImageProcessor().post_process_instance_segmentation
    theirs = process(outputs, threshold=0.3, target_sizes=SIZES, return_binary_maps=True)
    ours = mask2former_instances(outputs, SIZES, threshold=0.3, resize="twice")
    assert len(ours) == 2
    for their, our, size in zip(theirs, ours, SIZES, strict=True):
        places = in_order(their["segments_info"], our)
        assert [our.rle[place]["counts"] for place in places] == cases.strings(their["segmentation"])
        assert our.size == size and our.scores.tolist() == sorted(our.scores.tolist(), reverse=True)


def test_mask2former_at_once_moves_pixels_of_edges_only():
    outputs = cases.queries()
    [_, twice] = mask2former_instances(outputs, SIZES, threshold=0.3, resize="twice")
    [_, once] = mask2former_instances(outputs, SIZES, threshold=0.3)
    assert torch.equal(once.scores, twice.scores) and torch.equal(once.labels, twice.labels)
    moved = (cases.masks(once.rle) ^ cases.masks(twice.rle)).mean()
    assert 0 < moved < 0.01


@pytest.mark.parametrize("seed", cases.SEEDS)
def test_eomt_is_theirs_when_resized_twice(seed):
    outputs, size = cases.queries(seed=seed), {"shortest_edge": 96, "longest_edge": 96}
    theirs = EomtImageProcessor().post_process_instance_segmentation(outputs, SIZES, threshold=0.3, size=size)
    ours = eomt_instances(outputs, SIZES, threshold=0.3, input_size=(96, 96), resize="twice")
    assert len(ours) == 2
    for their, our in zip(theirs, ours, strict=True):
        # They paint one over the other.
        painted, whole = torch.full(our.size, -1.0), torch.from_numpy(cases.masks(our.rle))
        for number, place in enumerate(in_order(their["segments_info"], our)):
            painted[whole[place]] = number
        assert torch.equal(painted, their["segmentation"])


def test_eomt_at_once_moves_pixels_of_edges_only():
    outputs = cases.queries()
    twice = eomt_instances(outputs, SIZES, 0.2, (96, 96), resize="twice")
    once = eomt_instances(outputs, SIZES, 0.2, (96, 96))
    for first, second in zip(once, twice, strict=True):
        assert len(first) == len(second) and torch.allclose(first.scores, second.scores, atol=0.01)
        best = cases.masks(first.rle[:1]), cases.masks(second.rle[:1])
        assert 0 < (best[0] ^ best[1]).mean() < 0.02


def test_a_picture_fits_the_input_as_theirs_does():
    sizes = [(height, width) for height in (96, 97, 333, 640, 1080, 4000) for width in (31, 96, 427, 640, 1333, 3000)]
    for edges in ((640, 640), (96, 160), (800, 1333)):
        assert [fitted(size, edges) for size in sizes] == [get_size_with_aspect_ratio(size, *edges) for size in sizes]
