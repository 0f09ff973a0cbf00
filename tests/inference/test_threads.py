"""Work beside the detector: in order, bounded, and no error lost."""

import json
import threading
import time

import pytest

from htc_fast.commands.output import JsonList
from htc_fast.errors import UserError
from htc_fast.inference.threads import Behind, ahead


def test_ahead_keeps_the_order():
    def make(item):
        time.sleep(0.01 * (item % 3))
        return -item

    assert list(ahead(make, range(20), threads=4, depth=6)) == [-item for item in range(20)]
    assert list(ahead(make, [], threads=1, depth=1)) == []


def test_ahead_makes_while_the_caller_works_and_no_more_than_allowed():
    made = []
    results = ahead(lambda item: made.append(item) or item, iter(range(1000)), threads=2, depth=5)
    for _ in range(3):
        next(results)
        time.sleep(0.02)
    assert 5 <= len(made) <= 8
    results.close()
    time.sleep(0.02)
    assert len(made) <= 8


def test_without_threads_the_caller_makes_each_item_when_it_wants_it():
    made = []
    results = ahead(lambda item: made.append((item, threading.get_ident())) or item, range(9), threads=0, depth=5)
    assert next(results) == 0 and next(results) == 1
    assert made == [(0, threading.get_ident()), (1, threading.get_ident())]


def test_ahead_raises_at_the_item_s_turn():
    results = ahead(lambda item: 1 / item, [1, 2, 0, 3], threads=2, depth=4)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_behind_does_everything_and_waits_when_there_is_too_much():
    gate, done = threading.Event(), []

    def call(item):
        gate.wait()
        done.append(item)

    with Behind(threads=1, depth=3) as behind:
        for item in range(3):
            behind(call, item)
        threading.Timer(0.1, gate.set).start()
        began = time.perf_counter()
        behind(call, 3)  # no room before the gate opens
        assert time.perf_counter() - began > 0.05
    assert done == [0, 1, 2, 3]


def test_behind_reports_errors():
    def fail():
        raise UserError("disk full")

    with pytest.raises(UserError, match="disk full"), Behind(threads=1, depth=8) as behind:
        behind(fail)
    with pytest.raises(KeyError), Behind(threads=1, depth=8) as behind:
        behind(fail)
        raise KeyError  # the first error is the one that counts


@pytest.mark.parametrize("batches", [[], [[]], [[1]], [[{"a": 1}, {"b": [2]}], [], [3]]])
def test_json_lists(tmp_path, batches):
    path = tmp_path / "new" / "list.json"
    with JsonList(path) as out:
        for items in batches:
            out.add(items)
        assert not path.exists()
    assert json.loads(path.read_text()) == [item for items in batches for item in items]
    assert [item.name for item in path.parent.iterdir()] == ["list.json"]


def test_an_interrupted_list_keeps_what_came_and_a_failed_one_leaves_nothing(tmp_path):
    for error, kept in ((KeyboardInterrupt, True), (ValueError, False)):
        path = tmp_path / error.__name__ / "list.json"
        with pytest.raises(error), JsonList(path) as out:
            out.add([1, 2])
            raise error
        assert path.exists() == kept and len(list(path.parent.iterdir())) == kept
        assert not kept or json.loads(path.read_text()) == [1, 2]


def test_a_list_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), JsonList(tmp_path / "file" / "list.json"):
        pass
