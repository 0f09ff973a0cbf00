"""What a processor or a GPU can do, asked and not assumed."""

import torch

from htc_fast.errors import UserError, short

MOST_THREADS = 1024  # of which more end a process without a word where the system gives no more
# What libraries say when they want memory and get none; cuDNN and cuBLAS have their own words.
NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED", "ALLOCATION_FAILED")


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one.

    raises  UserError if there is no such device here
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not isinstance(name, (str, int, torch.device)):
            raise TypeError("no name")
        found = torch.device(name)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0] or type(error).__name__
        raise UserError(f"device {short(name)} cannot be used ({reason}): choose cpu, cuda or cuda:N.") from None
    return found


def supports(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device multiplies matrices of that type itself, instead of imitating them slowly."""
    if dtype == torch.float32:
        return True
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.get_device_capability(device)[0] >= 8
    names = {
        torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"),
        torch.float16: ("_is_avx512_fp16_supported", "_is_amx_fp16_supported"),
    }
    checks = (getattr(torch.cpu, name, None) for name in names[dtype])
    return any(check() for check in checks if check is not None)


def autocast(device: torch.device, asked: bool) -> torch.autocast:
    """bf16 where it is asked for and the device computes in it: imitating it takes ten times as long as fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=asked and supports(torch.bfloat16, device))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether that is what went wrong, on any device; also where ending a capture failed because of it."""
    if error is None:
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in NO_MEMORY):
        return True
    return out_of_memory(error.__context__)
