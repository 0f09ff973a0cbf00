"""Which tile a product gets: the measured one of exactly its maps, else the one with the fewest waves times cost."""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("triton")
from htc_fast.ops.triton import tiles
from htc_fast.ops.triton.tiles import Device, Tile, by_waves, candidates, tile_for

GPU = Device("a GPU of 132", 132, 232448, tma=True)


def maps(count: int) -> torch.Tensor:
    return torch.empty(count, 256, 14, 14, dtype=torch.bfloat16)


@pytest.fixture
def table(monkeypatch, tmp_path):
    """The table of measured tiles, empty, and a cache of its own."""
    found: dict = {}
    monkeypatch.setattr(tiles, "table", lambda: found)
    monkeypatch.setattr(tiles, "device_of", lambda x: GPU)
    monkeypatch.setattr(tiles, "cache", lambda: tmp_path / "tiles.json")
    return found


def chosen(count: int) -> Tile:
    return tile_for(maps(count), 9, 256, lambda tile: None, True, False)


def test_what_was_measured_holds_for_exactly_these_maps(table, monkeypatch, capsys):
    counted = {count: chosen(count) for count in (65, 127, 128)}
    monkeypatch.setattr(tiles, "searching", lambda x: True)
    monkeypatch.setattr(tiles, "_time", lambda run: 1.0 if run.args[0] == fastest else 2.0)
    offered = candidates(maps(1), 256, GPU, True)
    for count, fastest in ((65, offered[-1]), (128, offered[1])):
        assert chosen(count) == fastest != counted[count]
    monkeypatch.setattr(tiles, "searching", lambda x: False)
    assert (chosen(65), chosen(128)) == (offered[-1], offered[1])
    assert chosen(127) == counted[127]  # nobody measured it: neither neighbour's
    kept = json.loads(tiles.cache().read_text())[GPU.name]
    assert len(kept) == 2 and kept == json.loads(json.dumps(table[GPU.name]))
    assert "65 of 256x14x14" in capsys.readouterr().err


def test_a_measured_tile_comes_back_as_it_was(table):
    tile = Tile(64, 128, 64, 4, 2, (2, 2, 16))  # not what counting chooses
    table[GPU.name] = json.loads(json.dumps({"bf16 100 of 256x14x14 by 9 to 256 tma": asdict(tile)}))
    assert chosen(100) == tile and chosen(100).box == (2, 2, 16)
    assert chosen(101) != tile and tile_for(maps(100).half(), 9, 256, lambda tile: None, True, False) != tile


def test_who_beats_cudnn_stands_in_the_table_beside_the_tile(table):
    tile = Tile(128, 128)
    rows = {"bf16 1 of 256x14x14 by 9 to 256 tma": asdict(tile) | {"beats cuDNN": True}}
    rows["bf16 2 of 256x14x14 by 9 to 256 tma"] = asdict(tile) | {"beats cuDNN": False}
    table[GPU.name] = json.loads(json.dumps(rows))
    assert [tiles.beats_cudnn(maps(count), 256, True) for count in (1, 2, 3)] == [True, False, False]
    assert chosen(1) == chosen(2) == tile


def test_counting_is_done_once(table, monkeypatch):
    counted = []
    monkeypatch.setattr(tiles, "by_waves", lambda shape, *rest: counted.append(shape) or by_waves(shape, *rest))
    assert chosen(977) == chosen(977) and counted == [(977, 14, 14)]


def test_the_shipped_tables_fit_their_devices():
    shipped = json.loads(tiles.TABLE.read_text())
    assert {"NVIDIA H100 80GB HBM3", "NVIDIA H200"} <= shipped.keys()
    for rows in shipped.values():
        for problem, fields in rows.items():
            fields.pop("beats cuDNN", None)
            tile = Tile(**{**fields, "box": tuple(fields["box"]) if fields["box"] else None})
            assert tile.shared(2) + 1024 <= GPU.shared and (tile.box is None or "tma" in problem), problem


def test_waves_decide_where_nothing_was_measured():
    """129 tiles are one wave of 132 multiprocessors and 133 are two: half the tile, twice the waves, is no slower."""
    found = [Tile(256, 128, box=(8, 2, 16)), Tile(128, 128, box=(4, 2, 16))]
    waves = {count: [-(-tile.tiles(count, 14, 14, 256) // GPU.processors) for tile in found] for count in (65, 128)}
    assert waves[65] != waves[128]
    few, many = (by_waves((count, 14, 14), 256, found, GPU) for count in (1, 1000))
    assert few == found[1] and many == found[0]


def test_candidates_fit_into_shared_memory():
    for dtype in (torch.float32, torch.bfloat16):
        found = candidates(torch.empty(1, 256, 14, 14, dtype=dtype), 256, GPU, tma=True)
        assert {one.box is None for one in found} == {True, False}
        assert all(one.shared(dtype.itemsize) <= GPU.shared and one.stages >= 2 for one in found)


def test_a_gpu_with_little_shared_memory_gets_half_the_tile():
    """On sm_120 128 x 256 spilled 19 registers, and the 128 rows of a chained product 2."""
    little = Device("none", 108, 99 * 1024)
    x = maps(100)
    assert max(tile.rows * tile.outputs // tile.warps for tile in candidates(x, 256, GPU)) == 4096
    assert max(tile.rows * tile.outputs // tile.warps for tile in candidates(x, 256, little)) == 2048
    assert little.cramped and not GPU.cramped and not tiles.AHEAD.cramped


def test_a_chained_product_has_half_the_rows_there(monkeypatch):
    for shared, rows in ((163 * 1024, 128), (99 * 1024, 64)):
        monkeypatch.setattr(tiles, "device_of", lambda x, shared=shared: Device("none", 108, shared))
        assert tiles.chain_tile(maps(1), 128, 128).rows == rows
