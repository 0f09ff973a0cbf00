"""ultralytics' YOLO-seg: instances as run lengths, straight from prototypes and coefficients.

Nothing here needs ultralytics; `htc_fast.integrations.ultralytics.predictor` does.
"""

from collections.abc import Sequence

from torch import Tensor

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.integrations import _found


def instances(
    predictions: Tensor,
    prototypes: Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    class_names: Sequence[str] = (),
    empty: bool = False,
) -> Instances:
    """What retina_masks=True gives, with RLEs of the picture's size; the full masks are never built.

    predictions  [K, 6 + P]  after non-maximum suppression: x1, y1, x2, y2 in the input's pixels, score, class,
                 coefficients
    prototypes   [P, h, w]   of the whole input
    input_size   height, width of the network's input, where the picture lies in a letterbox
    image_size   height, width of the picture; the input's again: masks as with retina_masks=False
    empty        whether detections without a pixel stay; ultralytics leaves them out
    returns      Instances in the picture's pixels, best first
    raises       ValueError where predictions are not [K, 6 + P]
    source       ultralytics.utils.ops.process_mask_native
    """
    predictions, width = predictions.detach(), 6 + len(prototypes)
    if predictions.dim() != 2 or predictions.shape[1] != width:
        raise ValueError(f"predictions must be [K, {width}] beside these prototypes, got {list(predictions.shape)}.")
    (rows, columns), left, top, right, bottom = prototypes.shape[1:], *content(input_size, image_size)
    gain = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
    corner = predictions.new_tensor([left, top, left, top])
    limits = predictions.new_tensor([image_size[1], image_size[0]] * 2)
    boxes = ((predictions[:, :4] - corner) / gain).clamp(min=0).minimum(limits)
    across, down = columns / input_size[1], rows / input_size[0]
    part = (left * across, top * down, right * across, bottom * down)
    rles = ops.encode_prototypes(predictions[:, 6:], prototypes, boxes, image_size, crop=part, cut="after")
    return _found.instances(predictions[:, 4], predictions[:, 5], rles, image_size, boxes, class_names, empty)


def content(input_size: tuple[int, int], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the picture lies in the network's input: x1, y1, x2, y2 in the input's pixels, as LetterBox puts it."""
    gain = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
    high, wide = (max(round(side * gain), 1) for side in image_size)
    # Half a pixel that is over goes to the right and to the bottom.
    top, left = (round((room - side) / 2 - 0.1) for room, side in zip(input_size, (high, wide), strict=True))
    return left, top, left + wide, top + high
