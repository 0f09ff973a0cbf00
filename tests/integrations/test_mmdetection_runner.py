"""mmdetection's own loaders, training loop, evaluation and files, on the sample pictures."""

# ruff: noqa: E402 - mmdetection must not be imported before its operators are there

import copy
import importlib.util

import pytest
import torch

if importlib.util.find_spec("mmdet") is None:
    pytest.skip("mmdetection is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from htc_fast.integrations import mmcv

mmcv.install()

from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config, ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import Runner

from htc_fast.data import make_sample_dataset
from htc_fast.data.scenes import CLASSES
from htc_fast.integrations import mmdetection
from tests.integrations import mmdetection_cases as cases
from tests.integrations.test_mmdetection_models import same


def configuration(root, out) -> Config:
    """HTC's own, small, for the sample data."""
    made = Config.fromfile(str(cases.CONFIGS / cases.FILES["htc"]))
    made.model = ConfigDict(cases.small(made.model.to_dict()))

    def loader(split, pipeline, batch):
        pipeline = copy.deepcopy(pipeline)
        for step in pipeline:
            step.update({"scale": (160, 128)} if step["type"] == "Resize" else {})
        dataset = {
            "type": "CocoDataset",
            "data_root": str(root),
            "ann_file": f"annotations/instances_{split}2017.json",
            "data_prefix": {"img": f"{split}2017/", "seg": f"stuffthingmaps/{split}2017/"},
            "metainfo": {"classes": CLASSES, "palette": [(20 * i, 0, 0) for i in range(len(CLASSES))]},
            "pipeline": pipeline,
        }
        sampler = {"type": "DefaultSampler", "shuffle": False}
        return {"batch_size": batch, "num_workers": 0, "sampler": sampler, "dataset": dataset}

    made.train_dataloader = loader("train", made.train_pipeline, 2)
    made.val_dataloader = made.test_dataloader = loader("val", made.test_pipeline, 1)
    made.val_evaluator.ann_file = made.test_evaluator.ann_file = str(root / "annotations/instances_val2017.json")
    made.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 1, "val_interval": 1}
    made.optim_wrapper.optimizer.lr, made.work_dir = 0.001, str(out)
    return made


def test_trains_evaluates_resumes_and_predicts(tmp_path):
    root = make_sample_dataset(tmp_path / "data", train=4, val=2)
    config = configuration(root, tmp_path / "work")
    runner = Runner.from_cfg(copy.deepcopy(config))
    mmdetection.accelerate(runner.model)
    runner.train()
    left = tmp_path / "work" / "epoch_1.pth"
    mmdetection.allow_checkpoints()
    histories = torch.load(left, weights_only=True)["message_hub"]["log_scalars"]
    assert all(type(one) is HistoryBuffer for one in histories.values())
    assert histories["train/loss"].data[0].shape == (2,) and "train/s2.loss_mask" in histories

    config.resume, config.train_cfg.max_epochs = True, 2
    Runner.from_cfg(copy.deepcopy(config)).train()
    model = init_detector(config, str(tmp_path / "work" / "epoch_2.pth"), device="cpu")
    picture = str(root / "val2017" / "000001.jpg")
    before = inference_detector(model, picture).pred_instances
    assert len(before) == 20 and before.masks.any()
    same([inference_detector(mmdetection.accelerate(model), picture).pred_instances], [before])


def test_a_checkpoint_may_not_reach_further(tmp_path):
    class Reaches:
        def __reduce__(self):
            return getattr, (HistoryBuffer, "__init__")

    mmdetection.allow_checkpoints()
    torch.save({"x": Reaches()}, tmp_path / "x.pth")
    with pytest.raises(Exception, match="may name the methods of HistoryBuffer alone"):
        torch.load(tmp_path / "x.pth", weights_only=True)
