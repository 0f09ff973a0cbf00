"""The build's seconds: read from ninja's log, and as a table."""

import sys

import pytest

from benchmarks import build
from benchmarks.tables.build import build_of
from htc_fast import UserError

LOG = """# ninja log v7
0\t5\t1\t/x/build/CMakeFiles/cmake.verify_globs\ta0
5\t3005\t1\tCMakeFiles/cpu_avx2.dir/cmake_pch.hxx.gch\ta1
5\t2005\t1\tCMakeFiles/htc_fast_ops.dir/cmake_pch.hxx.gch\ta2
2005\t9999\t1\tCMakeFiles/htc_fast_ops.dir/csrc/torch/nms.cpp.o\ta3
3005\t4505\t1\tCMakeFiles/cpu_avx2.dir/csrc/cpu/nms.cpp.o\ta4
2005\t3005\t2\tCMakeFiles/htc_fast_ops.dir/csrc/torch/nms.cpp.o\ta3
4505\t9505\t1\tCMakeFiles/htc_fast_ops.dir/csrc/cuda/nms.cu.o\ta5
9505\t9905\t1\tlibhtc_fast_ops.so\ta6
9505\t9905\t1\tlibhtc_fast_ops.so.1\ta6
9505\t10000\t1\tCMakeFiles/_build.dir/csrc/python/module.cpp.o\ta7
"""


def test_jobs_are_counted_by_part_and_once():
    found = build.seconds_of(LOG)
    assert found["adapters"] == pytest.approx(2.0 + 1.0), "the last line of an output counts"
    assert found["CPU kernels"] == pytest.approx(3.0 + 1.5) and found["CUDA kernels"] == pytest.approx(5.0)
    assert found["linking and the rest"] == pytest.approx(0.005 + 0.4 + 0.495), "two outputs of one job are one job"


def test_builds_and_wheels_in_tables():
    parts = {"adapters": 26.4, "CPU kernels": 111.0, "CUDA kernels": 0.0, "linking and the rest": 12.6}
    plain = {"case": "CPU only", "jobs": 2, "architectures": [], "seconds of jobs": parts, "s of CPU": 150.4}
    cuda = {**plain, "case": "default", "architectures": ["80-real", "90-real", "90-virtual"], "s of CPU": 253.0}
    cuda["seconds of jobs"] = {**parts, "CUDA kernels": 90.2}
    wheel = {"case": "wheel 0.1.0+cpu", "MB": 1.74, "s of pip install": 2.5, "s of the first prediction": 6.04}
    machine = {"device": "a processor", "date": "2026-01-02", "torch": "2.11.0"}
    rows = [{**plain, "s by the clock": 80.0}, {**cuda, "s by the clock": 154.4}, wheel]
    text = build_of({"machine": machine, "rows": rows})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0][-1] == "clock, 2 jobs" and lines[1] == ["CPU only", "–", "26", "111", "–", "13", "150", "80"]
    assert lines[2] == ["default", "sm_80, sm_90, PTX", "26", "111", "90", "13", "253", "154"]
    assert lines[4] == ["wheel 0.1.0+cpu", "1.7", "2.5", "6.0"] and text.endswith(
        "a processor, 2026-01-02, torch 2.11.0"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--only", "wheel"], "needs --wheel FILE"),
        (["--only", "wheel", "--wheel", "x.whl"], "needs --weights FILE"),
        (["--only", "wheel", "--wheel", "x.whl", "--weights", "x.safetensors"], "x.whl is no file"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(words, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build", *words])
    with pytest.raises(UserError, match=sentence):
        build.main()
