"""The classifier of Seesaw Loss (Wang et al., CVPR 2021): classes compete among themselves, two more rows say whether
there is an object at all."""

import torch
from torch import Tensor, nn

from htc_fast.models.config import Model


class SeesawClassifier(nn.Linear):
    """Features [K, hidden] -> logits [K, classes + 2]: of the classes, of any object, of background.

    counts  buffer [classes] int64: how many samples of each class all processes have drawn in training so far
    """

    counts: Tensor

    def __init__(self, hidden: int, classes: int):
        super().__init__(hidden, classes + 2)
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))


def ordinary(logits: Tensor) -> Tensor:
    """Logits [..., classes + 2] as those [..., classes + 1], background last, whose softmax are the scores; float32.

    A class's score is its softmax among the classes times the objectness, the background's is the rest.
    """
    classes, found, background = logits.float().tensor_split((-2, -1), dim=-1)
    return torch.cat([classes - classes.logsumexp(dim=-1, keepdim=True) + found, background], dim=-1)


def ensemble(config: Model, logits: list[Tensor]) -> list[Tensor]:
    """Class logits of the stages that count as logits [N, R, classes + 1], to be averaged as the configuration says.

    logits  per stage [N, R, classes + 1], returned as they are; or [N, R, classes + 2] of Seesaw Loss: where logits
            are averaged, their mean becomes one stage's, since the mean comes before objectness is multiplied
    source  mmdetection's cascade, which averages all rows and activates their mean
    """
    if config.class_loss != "seesaw":
        return logits
    if config.score_average == "logits":
        logits = [torch.stack([one.float() for one in logits]).mean(dim=0)]
    return [ordinary(one) for one in logits]
