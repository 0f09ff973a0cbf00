"""The speed of the default run: a row, with its parts."""

from benchmarks.sample_training import Clock, measured


def test_a_row_has_speed_and_parts():
    row = measured(rounds=1, steps=1, mode="eager", label="trial")
    assert row["case"] == "sample, trial" and row["batch"] == 2
    assert abs(row["images/s"] - 2e3 / row["ms"]) < 0.01 * row["images/s"]
    assert {"data", "forward", "backward", "optimizer", "backbone"} <= row["parts ms"].keys()
    assert row["parts ms"]["forward"] >= row["parts ms"]["backbone"] > 0


def test_a_part_within_another_counts_in_both():
    clock = Clock()
    clock.begin("forward")
    clock.begin("backbone")
    clock.end("backbone")
    clock.end("forward")
    assert clock.spent["forward"] >= clock.spent["backbone"] > 0 and not clock.began
