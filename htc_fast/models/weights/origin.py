"""Whose checkpoint a file is, and what was done to its numbers, in words."""

from collections.abc import Mapping

from torch import Tensor

from htc_fast.models.weights import foreign

OWN = "htc_fast"  # under which meta of a checkpoint for mmdetection keeps our configuration
FIRST = ("backbone.net.conv1.weight", "backbone.net.patch_embed.proj.weight")


def of(state: Mapping[str, Tensor], described: bool) -> str:
    """The library that wrote a file, by the names of its tensors.

    described  whether the file says itself how the model is built, as only ours do
    """
    if described or any(name.startswith(("box_heads.", "fpn.lateral.")) for name in state):
        return "htc_fast"
    if any(name.startswith(("backbone.bottom_up.", "proposal_generator.")) for name in state):
        return "detectron2"
    if any(name.startswith(("backbone.body.", "roi_heads.box_predictor.")) for name in state):
        return "torchvision"
    return "mmdetection 1" if any(map(foreign.VERSION_1.match, state)) else "mmdetection 2 or 3"


def changes(state: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> list[str]:
    """What conversion did to numbers and rows, a sentence each.

    state      as the file has it
    converted  under our names
    """
    home, said = of(state, False), []
    rows = len(state.get("roi_heads.box_predictor.cls_score.bias", ()))
    kept = len(converted.get("box_heads.0.classes.bias", ()))
    if home == "torchvision" and rows != kept:
        said.append(f"{rows} rows by COCO id became {kept - 1} classes and the background, which is last here")
    elif home in ("torchvision", "mmdetection 1"):
        said.append("the background's row moved from first to last, and left the masks and class-specific boxes")
    if home == "torchvision" and "rpn.head.conv.weight" in state:
        said.append("the epsilon that this file's frozen batch norms leave out was worked into their weights")
    if home == "detectron2" and "roi_heads.box_head.1.fc1.weight" in state:
        said.append("its one mask head stands for those of all stages")
    # Where names are the same but for the library's own beginnings, the numbers must be too.
    own = {"torchvision": "backbone.body.conv1.weight", "detectron2": "backbone.bottom_up.stem.conv1.weight"}
    for name in FIRST:
        before = state.get(own.get(home, name.replace("backbone.net.", "backbone.")))
        if home != "htc_fast" and name in converted and before is not None and before.shape == converted[name].shape:
            if not before.equal(converted[name]):
                said.append(
                    "the first convolution was changed to read RGB, spread as ours is, as it read its own input"
                )
    return said
