"""Work beside others: a toy is measured, and the table says what is left of the speed alone."""

import argparse
import os
import subprocess
import sys

import pytest

from benchmarks import company
from benchmarks.tables.company import company_of


@pytest.mark.slow
def test_a_toy_is_measured():
    command = [sys.executable, "-m", "benchmarks.company", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 8 and all("images/s" in line for line in lines)
    assert sum("beside a busy process" in line for line in lines) == 4
    fixed = [line for line in lines if "threads fixed" in line]
    assert len(fixed) == 4 and all(f"used [{len(os.sched_getaffinity(0))}]" in line for line in fixed)


def test_steps_are_counted_with_their_seconds():
    took = {
        ("training", "nobody", "fixed"): [{"images": 2, "seconds": 0.5, "threads": 2}] * 2,
        ("training", "a busy process", "fixed"): [
            {"images": 2, "seconds": 0.5, "threads": 2},
            {"images": 2, "seconds": 1.5, "threads": 1},
        ],
    }
    row = company.row_of(took, "training", "a busy process", "fixed")
    assert row["images/s"] == 2.0 and row["of alone"] == 0.5 and row["used"] == [1, 2]
    assert row["ms"] == 1000.0 and row["spread ms"] == 1000.0


def test_others_are_there_meanwhile_and_gone_afterwards():
    code = "import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)
    try:
        with company.beside("two busy processes", process):
            during = children()
        after = children()
    finally:
        process.communicate()
    assert len(during) - len(after) == 2


def children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def test_the_table_has_a_line_for_each_company():
    rows = []
    for who, part in (("nobody", 1.0), ("a busy process", 0.72)):
        for what, rate in (("training", 4.5), ("inference", 2.0)):
            rows.append({"work": what, "beside": who, "threads": "fixed", "images/s": rate * part, "of alone": part})
    machine = {"device": "a processor", "date": "2026-01-02", "torch": "2.11.0"}
    text = company_of({"machine": machine, "cores": 2, "rows": rows})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == ["beside; 2 cores", "images/s trained, threads fixed", "ms to detect, threads fixed"]
    assert lines[1] == ["nobody", "4.5 (100%)", "500 (100%)"]
    assert lines[2] == ["a busy process", "3.2 (72%)", "694 (72%)"]


def test_where_no_group_can_be_made_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(company, "GROUP", tmp_path / "none" / "group")
    assert not company.can_share() and "without a share of 1.5 cores" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(
        company, "ask", lambda *words: asked.append(words[1:]) or [{"images": 1, "seconds": 1.0, "threads": 1}]
    )
    monkeypatch.setattr(company, "beside", lambda who, process: company.contextlib.nullcontext())
    monkeypatch.setattr(company, "worker", lambda threads, tiny: company.contextlib.nullcontext(threads))
    options = argparse.Namespace(threads=list(company.THREADS), tiny=False, rounds=2, seconds=3)
    rows = company.measured(options)
    assert len(rows) == 2 * len(company.COMPANY) * 2 and len(asked) == 2 * len(rows)
    assert company.SHARE not in {row["beside"] for row in rows}
