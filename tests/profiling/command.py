"""Runs the command in this process, so that limits can be given."""

import sys

import pytest

from htc_fast.commands import entry


def run(monkeypatch, folder, options: list[str]) -> int:
    from htc_fast import profile

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["profile", *options])
    with pytest.raises(SystemExit) as end:
        entry.run(profile.main)
    return end.value.code
