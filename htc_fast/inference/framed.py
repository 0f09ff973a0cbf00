"""A detector that sees every picture in one frame, as an exported file of fixed shapes does."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from htc_fast.data.pictures import frame_of, normalise_and_pad
from htc_fast.errors import UserError, check_sides, shown
from htc_fast.inference.predict import predict
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections, DetectorLike, FramedLike


class Framed:
    """`predict`, `stream` and `evaluate` as a file of the detector would do it: the same pixels, the same padding.

    A picture keeps its aspect and is scaled to the largest size that fits into the frame, which does not turn with it:
    upright pictures are small in a lying frame. The rest of the frame is the mean colour.

    model  any detector: `htc_fast.load`'s, `optimize`'s
    frame  (height, width), brought up to sides that 32 divides; any number of pictures at once
    raises UserError for what is no detector of images, as `Views` are none, or no frame
    """

    predict = predict

    def __init__(self, model: DetectorLike, frame: tuple[int, int]):
        if isinstance(model, FramedLike):
            _, height, width = model.frame
            raise UserError(f"model has a frame of its own, {height} x {width}: give the detector itself.")
        if not hasattr(model, "detect"):
            raise UserError(f"model must be a detector, as htc_fast.load gives it, got {shown(model)}.")
        sides = check_sides("frame", frame, "height, width", ordered=False)
        self.model, self.frame = model, (None, *frame_of(sides))

    @property
    def config(self) -> Model:
        """The detector's own."""
        return self.model.config

    @config.setter
    def config(self, value: Model) -> None:
        self.model.config = value

    @property
    def training(self) -> bool:
        """Whether the detector is in training mode."""
        return self.model.training

    def train(self, mode: bool = True) -> Any:
        """As the detector's."""
        return self.model.train(mode)

    def eval(self) -> Any:
        """As the detector's."""
        return self.model.eval()

    def parameters(self) -> Iterator[nn.Parameter]:
        """The detector's own."""
        return self.model.parameters()

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """As the detector's."""
        return self.model.detect(images, image_sizes)

    def see(self, pixels: list[Tensor]) -> Detections:
        """pixels: uint8 [3, h, w] of each picture -> Detections.

        raises  UserError if one does not fit into the frame
        """
        frame = check_fit(pixels, self.frame)
        images, sizes = normalise_and_pad(pixels, self.config.mean, self.config.std, pixels[0].device, frame=frame)
        if isinstance(self.model, HTC):  # of .half() or .double()
            images = images.to(next(self.parameters()).dtype)
        return self.model.detect(images, sizes)


def check_fit(pixels: list[Tensor], frame: tuple[int | None, int, int]) -> tuple[int, int]:
    """Height and width of the frame.

    raises  UserError if a picture [3, h, w] does not fit into them
    """
    _, height, width = frame
    for down, across in (one.shape[1:] for one in pixels):
        if down > height or across > width:
            raise UserError(
                f"a picture of {down} x {across} does not fit into the {height} x {width} that the network sees: leave "
                "out size, or make it smaller."
            )
    return height, width
