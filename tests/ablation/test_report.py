"""Tables and picture of made-up scores: what is supported, what is not, what is missing."""

import pytest
from PIL import Image

from htc_fast.ablation import picture, report
from htc_fast.ablation.steps import Step
from htc_fast.ablation.tables import TABLES
from htc_fast.profiling.chart import digest
from tests.ablation.made_up import result, scores

BASE = [scores("cascade_mask_r50", seed, 0.20 + 0.05 * seed) for seed in range(3)]


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


@pytest.fixture
def found():
    """Interleaving helps every seed by about a point, flow harms, the semantic branch does nothing that stands out."""
    steps = {
        "cascade_mask_r50_interleaved": (0.01, 0.011, 0.009),
        "htc_r50_nosem": (-0.02, -0.021, -0.019),
        "htc_r50": (0.03, -0.01, 0.01),
    }
    others = [scores(name, k, 0.20 + 0.05 * k + one) for name, each in steps.items() for k, one in enumerate(each)]
    return result([*BASE, *others])


def test_a_table_shows_both_numbers_and_what_they_support(found):
    head, _, base, inter, flow, whole = rows(report.one_table(found, TABLES[2]))
    assert head[1:4] == ["box AP", "mask AP", "AP50"] and head[8:10] == ["step in mask AP", "paper's step"]
    assert base[:3] == ["cascade (`cascade_mask_r50`)", "50.0 ± 0.0 / 42.5", "25.0 ± 5.0 / 36.5"]
    assert base[8:] == ["", "", ""]
    # 4.303 * 0.1 / sqrt(3)
    assert inter[8:] == ["**+1.0 ± 0.2**", "+0.2", "supported, as in the paper"]
    assert flow[8:] == ["**-2.0 ± 0.2**", "+0.9", "supported, against the paper"]
    assert whole[8:] == ["+1.0 ± 5.0", "+1.5", "not supported"]
    said = report.markdown(found)
    assert (
        "Of 3 steps in mask AP that the paper took: 1 supported, as in the paper, 1 supported, against the paper, "
        "1 not supported." in said
    )
    assert (
        "Student's t" in said
        and "4 models × 3 seeds on made up" in said
        and "36 s of runs, 2 side by side, 30 s of proc" in said
    )


def test_what_is_missing_is_a_dash():
    one = scores("cascade_mask_r50", 0, 0.2, mask_AP_large=-1.0)
    base, other = rows(report.one_table(result([one]), TABLES[2]))[2:4]
    assert base[1:3] == ["50.0 / 42.5", "20.0 / 36.5"] and base[7] == "– / 50.8"
    assert other[1] == "– / 42.5" and other[8:] == ["", "+0.2", ""]


def test_rows_that_the_paper_lacks_are_ours_alone():
    each = {"htc_r50": 0.2, "htc_r50_beta0.2": 0.3}
    runs = [scores(name, seed, mask_ap) for name, mask_ap in each.items() for seed in (0, 1)]
    released = rows(report.one_table(result(runs, (6,)), TABLES[6]))[2]
    assert released[1] == "30.0 ± 0.0 / –" and released[-3:] == ["**+10.0 ± 0.0**", "", "supported"]


def test_a_stage_is_its_own_row():
    runs = [scores("htc_r50_nosem", seed, 0.2, ("stage 1",)) for seed in (0, 1)]
    for run in runs:
        run["stages"]["stage 2"] = {**run["stages"]["stage 1"], "mask_AP": 0.25}
    first, second, third = rows(report.one_table(result(runs, (4,)), TABLES[4]))[6:9]
    assert first[1] == "20.0 ± 0.0 / 35.5" and second[1] == "25.0 ± 0.0 / 37.0" and third[1] == "– / 36.8"
    assert second[-3:] == ["**+5.0 ± 0.0**", "+1.5", "supported, as in the paper"]


def test_the_picture_is_that_of_its_result(found, tmp_path):
    found["tables"] = [2, 4]
    made = Image.open(picture.draw(found, tmp_path / "a.png"))
    assert made.width > 900 and made.info["Source"] == digest(found)


def test_a_step_that_is_small_and_sure_is_no_zero():
    assert report.step_words(Step(-0.0236, 0.003, (-0.0233, -0.0238))) == "**-0.02 ± 0.00**"
    assert report.step_words(Step(-0.0236, 0.3, (-0.2, 0.1))) == "+0.0 ± 0.3"
    assert report.step_words(Step(1.26, 0.3, (1.2, 1.3))) == "**+1.3 ± 0.3**"
