"""TensorBoard, W&B and MLflow get the numbers of the CSV files, under one set of names."""

import sys
import types

import pytest
from torch.distributed.run import get_args_parser

from htc_fast import UserError
from htc_fast.commands.options import Parser, given
from htc_fast.training import TrainingRun
from htc_fast.training.loggers import MLflow, TensorBoard, WandB, check_loggers, make_loggers
from htc_fast.training.report import Report
from tests.training.test_callbacks import listened


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    monkeypatch.setattr(Report, "draw", lambda self: None)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_back(tmp_path):
    listened(tmp_path, TensorBoard()).run()
    found = scalars(tmp_path)
    assert found["train/loss"] == [(5, 5.0), (10, 5.0)] and found["val/mask_AP"] == [(10, 0.5)]
    assert found.keys() == {
        "train/loss",
        "train/rpn_class",
        "train/rpn_box",
        "train/stage1_class",
        "train/stage1_box",
        "train/stage1_mask",
        "train/images_per_second",
        "train/learning_rate",
        "train/memory_mb",
        "val/mask_AP",
        "val/mask_AP50",
    }


def test_tensorboard_forgets_what_a_killed_run_wrote_beyond_its_checkpoint(tmp_path):
    loop = listened(tmp_path, TensorBoard(), log_every=1, save_every=4)
    step = loop.update

    def dying(batches):
        if loop.at.iteration == 6:
            raise MemoryError
        return step(batches)

    loop.update = dying
    with pytest.raises(MemoryError):
        loop.run()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6]
    loop = listened(tmp_path, TensorBoard(), log_every=1)
    loop.resume()
    loop.run()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(1, 11))


class FakeWandB(types.ModuleType):
    """What of wandb's interface is used; checked against wandb 0.31."""

    def __init__(self):
        super().__init__("wandb")
        self.given, self.logged, self.ended, self.metrics = [], [], [], []

    def init(self, **given):
        self.given.append(given)
        return self

    id = "abc123"

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self, exit_code=0):
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb(tmp_path, wandb):
    listened(tmp_path / "run", WandB(mode="offline", tags=["a"]), stop=7).run()
    assert wandb.given == [
        {
            "project": "htc_fast",
            "name": "run",
            "dir": str(tmp_path / "run"),
            "config": {"lr": 0.5},
            "mode": "offline",
            "tags": ["a"],
        }
    ]
    assert wandb.ended == [1] and wandb.metrics == [("*", "iteration")]
    loop = listened(tmp_path / "run", WandB(project="mine"))
    loop.resume()
    loop.run()
    assert [wandb.given[1][name] for name in ("id", "resume", "project")] == ["abc123", "allow", "mine"]
    assert [one["iteration"] for one in wandb.logged] == [5, 10, 10] and wandb.ended == [1, 0]
    assert wandb.logged[0]["train/loss"] == 5.0 and wandb.logged[2]["val/mask_AP"] == 0.5


class FakeMLflow(types.ModuleType):
    """What of mlflow's interface is used; the test below this one takes the real one, where it is installed."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.params, self.metrics, self.ended = [], [], [], []
        self.info = types.SimpleNamespace(run_id="f00d")

    def active_run(self):
        return None

    def start_run(self, run_id, run_name, nested):
        self.runs.append((run_id, run_name, nested))
        return self

    def log_params(self, values):
        self.params.append(values)

    def log_metrics(self, numbers, step):
        self.metrics.append((step, numbers))

    def end_run(self, status):
        self.ended.append(status)


def test_mlflow(tmp_path, monkeypatch):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    listened(tmp_path / "run", MLflow(), stop=7).run()
    loop = listened(tmp_path / "run", MLflow())
    loop.resume()
    loop.run()
    assert fake.runs == [(None, "run", False), ("f00d", None, False)] and fake.params == [{"lr": 0.5}]
    assert fake.ended == ["KILLED", "FINISHED"]
    assert [step for step, _ in fake.metrics] == [5, 10, 10] and fake.metrics[2][1]["val/mask_AP50"] == 0.5


def test_mlflow_s_file_store_reads_back(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want it asked for by name
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    try:
        listened(tmp_path / "run", MLflow(), stop=7).run()
        loop = listened(tmp_path / "run", MLflow())
        loop.resume()
        loop.run()
        client = mlflow.MlflowClient()
        runs = client.search_runs(["0"])
        assert [(one.info.run_name, one.info.status) for one in runs] == [("run", "FINISHED")]
        assert runs[0].data.params == {"lr": "0.5"}
        history = client.get_metric_history(runs[0].info.run_id, "train/loss")
        assert [(one.step, one.value) for one in history] == [(5, 5.0), (10, 5.0)]
        found = client.get_metric_history(runs[0].info.run_id, "val/mask_AP")
        assert [(one.step, one.value) for one in found] == [(10, 0.5)]
        assert mlflow.active_run() is None
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(("name", "wanted"), [("wandb", "pip install wandb"), ("mlflow", "mlflow-skinny")])
def test_a_package_that_is_missing_is_said(monkeypatch, name, wanted):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=wanted):
        make_loggers([name])


def test_names():
    assert check_loggers(["mlflow", "tensorboard", "mlflow"]) == ("mlflow", "tensorboard")
    assert check_loggers(["none"]) == () and TrainingRun().log == ("tensorboard",)
    with pytest.raises(UserError, match="unknown logger 'wandbb': did you mean wandb"):
        TrainingRun(log=["wandbb"])
    with pytest.raises(UserError, match="--log none is for no logger at all, got none tensorboard"):
        TrainingRun(log=("none", "tensorboard"))


def test_torchrun_leaves_all_options_of_training_alone():
    torchrun = get_args_parser()
    own = [name for action in make_parser()._actions for name in action.option_strings if name.startswith("--")]
    words = [name for name in own if name not in ("--help", "--log")]
    parsed = torchrun.parse_args(["--nproc-per-node=2", "-m", "htc_fast.train", *words, "--logger", "mlflow"])
    assert parsed.training_script_args == [*words, "--logger", "mlflow"] and len(words) > 60
    assert given(TrainingRun, "train", "", ["--logger", "mlflow", "wandb"]) == {"log": ("mlflow", "wandb")}
    assert given(TrainingRun, "train", "", ["--log", "mlflow"]) == {"log": ("mlflow",)}


def make_parser():
    """The parser of `given`, caught as it is used."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", lambda self, words: caught.append(self) or types.SimpleNamespace())
        given(TrainingRun, "train", "")
    return caught[0]
