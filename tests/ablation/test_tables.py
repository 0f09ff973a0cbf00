"""The paper's tables as data: which models they need, and that rows are those of the paper."""

import pytest

from htc_fast import ablate
from htc_fast.ablation import tables
from htc_fast.ablation.run import AblationRun
from htc_fast.errors import UserError
from htc_fast.models import zoo


def test_every_model_is_trained_once():
    needed = tables.needed(tables.chosen((2, 3, 4, 5, 6)))
    assert len(needed) == 14 and set(needed) <= set(zoo.list_models())
    assert needed["htc_r50_nosem"] == (None, 1, 2, 3) and needed["htc_r50"] == (None,)
    assert tables.needed(tables.chosen((6, 2)))["htc_r50_beta0.2"] == (None,)


def test_tables_have_the_papers_columns():
    columns = {number: table.columns[0] for number, table in tables.TABLES.items()}
    assert columns == {2: "box AP", 3: "box AP", 4: "mask AP", 5: "mask AP", 6: "mask AP"}
    for table in tables.TABLES.values():
        assert {len(row.paper) for row in table.rows} <= {0, len(table.columns)}
        assert all(table.rows[row.base].base == row.base for row in table.rows)


def test_rows_differ_in_what_their_labels_say():
    def fields(number, place, *names):
        config = zoo.config(tables.TABLES[number].rows[place].model)
        return tuple(getattr(config, name) for name in names)

    parts = [fields(2, place, "interleaved", "information_flow", "semantic") for place in range(4)]
    none = (False, False, "none"), (True, False, "none"), (True, True, "none")
    assert parts == [*none, (True, True, "both")]
    assert [fields(5, place, "semantic")[0] for place in range(5)] == ["none", "loss", "box", "mask", "both"]
    assert [fields(6, place, "semantic_loss_weight")[0] for place in range(5)] == [0.2, 0.5, 1.0, 2.0, 3.0]
    assert [row.stage for row in tables.TABLES[4].rows] == [1, 2, 3, None] * 2


def test_jitter_takes_the_place_of_the_small_run_s_sizes():
    run = AblationRun.small(jitter="large")
    assert (run.jitter, run.crop, run.scales) == ("large", None, (1.0, 1.0)) and AblationRun.small().crop == 160
    assert ablate.options(["--jitter", "standard"]).crop is None
    with pytest.raises(UserError, match="recipe must be paper in an ablation"):
        AblationRun(data="x", recipe="strong")


@pytest.mark.parametrize("numbers", [(1,), (2, 9), ()])
def test_an_unknown_table_is_one_sentence(numbers):
    with pytest.raises(UserError, match=r"choose some of 2, 3, 4, 5, 6 \(--tables\)\.$"):
        AblationRun.small(tables=numbers)


def test_a_run_of_one_model_is_that_of_all_but_for_its_name(tmp_path):
    run = AblationRun.small(iterations=7, out=tmp_path)
    one, other = (run.training(name, 2, tmp_path / name) for name in ("htc_r50", "mask_rcnn_r50"))
    differing = {name for name in vars(one) if getattr(one, name) != getattr(other, name)}
    assert differing == {"model", "out"} and one.iterations == 7 and one.seed == 2 and not one.resume
