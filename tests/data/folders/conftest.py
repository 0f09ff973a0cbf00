"""A cache of its own for every test, and sentences that were not said before."""

import pytest

from htc_fast.errors import say_once


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    say_once.cache_clear()
    return folder / "htc_fast" / "folders"
