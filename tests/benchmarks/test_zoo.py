"""The table of all models: what stands in it is counted, and nobody is left out."""

import json

import pytest

import htc_fast
from benchmarks import stored, zoo
from htc_fast.models.zoo import MODELS

NUMBERS = json.loads((stored.RESULTS / zoo.FILE).read_text())


def test_every_model_is_counted():
    assert sorted(NUMBERS) == htc_fast.list_models()
    assert {name for one in zoo.APART.values() for name in one} <= NUMBERS.keys()


@pytest.mark.parametrize("name", ["htc_r50", "htc_r50_dcn_syncbn", "panet_r50", "htc_r50_ga", "htc_r50_prroipool"])
def test_the_stored_numbers_are_those_of_the_models(name):
    found = zoo.count(name)
    assert found["parameters"] == NUMBERS[name]["parameters"]
    assert found["flop"] == pytest.approx(NUMBERS[name]["flop"], rel=1e-6)


def test_counts_that_are_known_from_elsewhere():
    assert NUMBERS["htc_r50"]["parameters"] == 80_258_293
    # Deformable: a 3x3 with biases for 18 offsets in each of three blocks.
    assert NUMBERS["htc_r50_dcn"]["parameters"] - 80_258_293 == 3 * (512 * 18 * 9 + 18)
    # PAFPN: six 3x3 with biases; GCN: four convolutions of 7 instead of a 1x1, at five levels.
    assert NUMBERS["htc_r50_pafpn"]["parameters"] - 80_258_293 == 6 * (256 * 256 * 9 + 256)
    assert NUMBERS["htc_r50_gcn"]["parameters"] - 80_258_293 == 5 * (4 * (256 * 256 * 7 + 256) - (256 * 256 + 256))


def test_what_a_model_is_made_of():
    assert zoo.described(MODELS["cascade_mask_r50_interleaved"]) == "Cascade Mask R-CNN, resnet50, interleaved"
    assert zoo.described(MODELS["htc_r50_beta0.5"]) == "HTC, resnet50, β 0.5"
    assert zoo.described(MODELS["panet_r50"]) == "PANet, resnet50"
    words = [zoo.described(one) for one in MODELS.values()]
    assert len(set(words)) == len(words)


def test_the_row_of_a_model():
    row = next(line for line in zoo.models().splitlines() if line.startswith("| `htc_r50`"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "`htc_r50`",
        "HTC, resnet50",
        "80.3",
        "896",
        "38.4 (1, 7); 38.0 (2, 6, 8)",
    ]
