"""What several processes share: start-up under torchrun, who speaks, and small agreements."""

import os
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from htc_fast.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; waits for all of them."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def max(self, number: float) -> float:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device, dtype=torch.float64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value.item()

    def agree(self, number: int) -> bool:
        """Whether all processes hold the same number, below 2**53; waits for all of them."""
        return self.max(number) == -self.max(-number)

    def barrier(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()


def start(device: str | None = None) -> World:
    """Join the processes torchrun started, or stand alone.

    device  "cpu", "cuda", "cuda:1"; None: this process's GPU if there is one
    raises  UserError where there is no such GPU, or the environment asks for processes in a way that is no torchrun's
    """
    local, size = _from_environment("LOCAL_RANK", 0), _from_environment("WORLD_SIZE", 1)
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local if chosen.index is None else chosen.index)
        if chosen.index >= torch.cuda.device_count():
            raise UserError(
                f"process {local} has no GPU of its own, as there are {torch.cuda.device_count()}: "
                "start torchrun with that --nproc-per-node."
            )
        torch.cuda.set_device(chosen)
    if size <= 1:
        return World(device=chosen)
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    except ValueError as error:  # RANK, MASTER_ADDR or MASTER_PORT is missing, or no number
        raise UserError(
            f"the environment's WORLD_SIZE={size} asks for several processes ({str(error).splitlines()[0]}): start "
            "them with torchrun, or unset it."
        ) from None
    return World(dist.get_rank(), dist.get_world_size(), chosen)


def _from_environment(name: str, otherwise: int) -> int:
    value = os.environ.get(name) or str(otherwise)
    if not value.isdecimal():
        raise UserError(
            f"the environment's {name} is a whole number where torchrun sets it, got {value!r}: start with torchrun, "
            "or unset it."
        )
    return int(value)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
