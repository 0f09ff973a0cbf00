"""An ONNX file that `export_onnx` wrote, run in onnxruntime on a processor: what `predict` and `evaluate` take."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast.cores import usable_cores
from htc_fast.data.pictures import normalise_and_pad, stack
from htc_fast.device import out_of_memory
from htc_fast.errors import UserError, check_count, few, shown
from htc_fast.inference.buckets import describe
from htc_fast.inference.framed import check_fit
from htc_fast.inference.onnx.graph import KEY
from htc_fast.inference.onnx.program import INPUTS, OUTPUTS
from htc_fast.inference.predict import predict
from htc_fast.models.config import Model, from_dict
from htc_fast.models.inputs import SIZES, check_numbers
from htc_fast.models.structures import Detections
from htc_fast.models.weights import files

KINDS = {"tensor(float)": torch.float32, "tensor(uint8)": torch.uint8}
THREADS = 64  # or as many as there are cores: onnxruntime opens every one of them, and thousands for minutes
BEGINS = rb"\x08[\x01-\x7f]"  # a model's first field is the version of its format


class OnnxDetector:
    """A file as a detector, fixed as it was exported; threads may call it at once.

    Pictures are seen as `Framed` shows them: scaled to the largest size that fits into the file's frame. A file of a
    fixed batch takes that many at once; what is missing in the last batch is filled up.

    notes    what the file says of itself: model, class_names, category_ids, mean, std, images, uint8, config
    frame    [N, H, W] of its images, N None where any number goes;  raw: they are uint8 [N, H, W, 3]
    path     of a file that `export_onnx` wrote
    threads  None: as many as torch has now, and no more than the cores that the process may use; at most 64, or as many
             as the machine has cores
    raises   UserError if onnxruntime is not installed, or the file is missing, damaged or none of ours
    """

    predict = predict
    training = False

    def __init__(self, path: str | Path, threads: int | None = None):
        if not isinstance(path, (str, Path)):
            raise UserError(f"path must name an ONNX file, got {shown(path)}.")
        self.path = Path(path)
        most = max(THREADS, os.cpu_count() or 1)
        usual = min(torch.get_num_threads(), usable_cores())
        self.session = _opened(self.path, usual if threads is None else check_count("threads", threads, most=most))
        self.notes, self._config = _notes(self.path, self.session.get_modelmeta().custom_metadata_map)
        self.kind, (count, *sides) = _input(self.path, self.session)
        self.raw = self.kind == torch.uint8
        height, width = sides[:2] if self.raw else sides[1:]
        self.frame = count if isinstance(count, int) else None, height, width
        # By it `predict` knows the device.
        self._parameter = nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def config(self) -> Model:
        """That of the exported detector; other class names and category ids may be set."""
        return self._config

    @config.setter
    def config(self, value: Model) -> None:
        if not isinstance(value, Model):
            raise UserError(f"config must be a Model, as the detector's own is, got {shown(value)}.")
        named = replace(self._config, class_names=value.class_names, category_ids=value.category_ids)
        if value != named:
            changed = [name for name, own in vars(named).items() if getattr(value, name) != own]
            raise UserError(
                f"{self.path} stays as it was exported: to change {few(changed)}, export the detector anew."
            )
        self._config = value

    def parameters(self) -> Iterator[nn.Parameter]:
        """One without values, on the device where images have to be."""
        yield self._parameter

    def train(self, mode: bool = True) -> "OnnxDetector":
        """Stays in evaluation mode."""
        return self

    def eval(self) -> "OnnxDetector":
        """Is in evaluation mode."""
        return self

    def see(self, pixels: list[Tensor]) -> Detections:
        """pixels: uint8 [3, h, w] of each picture -> Detections.

        raises  UserError if one does not fit into the frame
        """
        frame = check_fit(pixels, self.frame)
        if not self.raw:
            return self.detect(*normalise_and_pad(pixels, self.config.mean, self.config.std, frame=frame))
        return self.detect(stack(pixels, frame), torch.tensor([one.shape[1:] for one in pixels]))

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Find objects.

        images       [N, 3, H, W] float32 normalised, zeros where padded; of a file of uint8 [N, H, W, 3], RGB; H and W
                     the file's, N of any number
        image_sizes  [N, 2]  height and width before padding
        returns      Detections
        raises       TypeError, ValueError for other images; torch.OutOfMemoryError
        """
        self._check(images, image_sizes)
        step = self.frame[0] or len(images)
        found = [self._run(*one) for one in zip(images.split(step), image_sizes.long().split(step))]
        return Detections(*(torch.cat(values) for values in zip(*(vars(one).values() for one in found))))

    def _run(self, images: Tensor, image_sizes: Tensor) -> Detections:
        count = len(images)
        if missing := (self.frame[0] or count) - count:
            images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
            image_sizes = torch.cat([image_sizes, image_sizes[:1].expand(missing, -1)])
        given = [one.detach().contiguous().numpy() for one in (images, image_sizes)]
        try:
            found = self.session.run(list(OUTPUTS), dict(zip(INPUTS, given)))
        except Exception as error:  # onnxruntime has classes of its own
            if not out_of_memory(error):
                raise
            advice = f"{self.path} was exported so: export it with a smaller --image-size or --batch-size."
            raise torch.OutOfMemoryError(describe((len(images), *self.frame[1:]), advice)) from None
        return Detections(*(torch.from_numpy(one)[:count] for one in found))

    def _check(self, images: Tensor, image_sizes: Tensor) -> None:
        check_numbers("images", images, (self.kind,))
        check_numbers("image_sizes", image_sizes, SIZES)
        if images.device.type != "cpu" or image_sizes.device.type != "cpu":
            raise ValueError(f"{self.path} runs on the processor, got images on {images.device}: move them.")
        _, height, width = self.frame
        wanted = [height, width, 3] if self.raw else [3, height, width]
        if images.dim() != 4 or list(images.shape[1:]) != wanted or not len(images):
            sides = ", ".join(map(str, wanted))
            raise ValueError(f"images must be [N, {sides}] as {self.path} was exported, got {list(images.shape)}.")
        if list(image_sizes.shape) != [len(images), 2]:
            raise ValueError(f"image_sizes must be [N, 2] = [{len(images)}, 2], got {list(image_sizes.shape)}.")
        sizes = image_sizes.tolist()
        if not all(0 < down <= height and 0 < across <= width for down, across in sizes):
            raise ValueError(f"image_sizes must be heights and widths within {height} x {width}, got {sizes}.")


def _opened(path: Path, threads: int) -> Any:
    """raises  UserError if the file cannot be run"""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path} needs onnxruntime, which is not installed: pip install onnxruntime.") from None
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path.") from None
    if not re.match(BEGINS, head):
        what = files.instead(head) or "no ONNX file: expected one that htc_fast.export wrote"
        raise UserError(f"{path} is {what}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has classes of its own
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    if f"{KEY}:" in reason or f"for {KEY} with domain" in reason:  # our operators' domain is called as the notes are
        return UserError(
            f"{path} has kept our own operators, which onnxruntime lacks: export the detector without them."
        )
    if "parsing failed" in reason or type(error).__name__ == "InvalidProtobuf":
        return UserError(f"{path} is damaged or no ONNX file: copy it again, or export the detector anew.")
    reason = reason if len(reason) <= 200 else f"… {reason[-200:].partition(' ')[2]}"
    return UserError(f"onnxruntime does not take {path} ({reason}): export the detector anew, or update it.")


def _notes(path: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], Model]:
    """What the file says of itself, and the configuration in it.

    raises  UserError if it says nothing that can be read
    """
    if KEY not in metadata:
        raise UserError(f"{path} is an ONNX file, but none that htc_fast.export wrote: it does not say how to use it.")
    try:
        notes = json.loads(metadata[KEY])
        return notes, from_dict(notes["config"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} does not say how its detector is made up: export it anew.") from None


def _input(path: Path, session: Any) -> tuple[torch.dtype, list]:
    """Type and shape of the images.

    raises  UserError if the file takes or gives something else than ours do
    """
    taken, given = session.get_inputs(), session.get_outputs()
    ours = [one.name for one in (*taken, *given)] == [*INPUTS, *OUTPUTS]
    if not ours or taken[0].type not in KINDS or [type(one) for one in taken[0].shape[1:]] != [int] * 3:
        raise UserError(f"{path} is no file that htc_fast.export wrote: it takes or gives other things than they do.")
    return KINDS[taken[0].type], taken[0].shape
