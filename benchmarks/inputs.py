"""The tests' inputs, on a device and in the sizes that were asked for."""

import torch

from tests import inputs

TINY = {"count": 24, "channels": 8, "image": (64, 96)}


class Draw:
    """The tests' inputs, on the device; small ones under --tiny. What each session asked for stands here too."""

    def __init__(self, device: torch.device, tiny: bool = False, quick: bool = False, full: bool = False):
        self.device, self.tiny, self.quick, self.full = device, tiny, quick, full
        self.image = TINY["image"] if tiny else inputs.IMAGE

    def count(self, number: int) -> int:
        return min(number, TINY["count"]) if self.tiny else number

    def channels(self, number: int) -> int:
        return min(number, TINY["channels"]) if self.tiny else number

    def size(self, image: tuple[int, int]) -> tuple[int, int]:
        return TINY["image"] if self.tiny else image

    def maps(self, channels=256, images=1, dtype=torch.float32, seed=0) -> list[torch.Tensor]:
        made = inputs.maps(self.channels(channels), images, self.image, dtype, seed)
        return [one.to(self.device) for one in made]

    def proposals(self, count: int, images: int = 1) -> torch.Tensor:
        """[K, 5] in the order of their images, as rivals return them."""
        made = inputs.proposals(self.count(count), images, self.image)
        return made[made[:, 0].argsort(stable=True)].to(self.device)

    def candidates(self, count: int, classes: int, images: int | None = None) -> list[torch.Tensor]:
        """boxes, scores, idxs; [images, K, ...] each where there are images."""
        seeds = range(images or 1)
        found = [inputs.candidates(self.count(count), classes, self.image, seed) for seed in seeds]
        batched = [torch.stack(some).to(self.device) for some in zip(*found)]
        return batched if images else [one[0] for one in batched]

    def soft_masks(self, count: int, image: tuple[int, int]) -> list[torch.Tensor]:
        return [one.to(self.device) for one in inputs.soft_masks(self.count(count), self.size(image))]

    def normal(self, *shape: int, dtype=torch.float32, scale=1.0) -> torch.Tensor:
        """Of one seed, channels-last if it is a map."""
        made = (torch.randn(shape, generator=inputs.generator(0)) * scale).to(dtype).to(self.device)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made
