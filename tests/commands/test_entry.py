"""How a command ends: bad input and a lack of memory are one line and status 2, a mistake of ours is a traceback."""

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.commands import entry


def too_large_for_torch():
    torch.empty(10**15)


def too_large_for_numpy():
    np.zeros(10**15)


def no_words():
    raise MemoryError


def of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")


@pytest.mark.parametrize("work", [too_large_for_torch, too_large_for_numpy, no_words, of_a_gpu])
def test_a_lack_of_memory_is_one_line(work, capsys):
    with pytest.raises(SystemExit) as end:
        entry.run(work)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert said.startswith("error: ") and "Lower --batch-size or --image-size" in said


def test_other_errors_keep_their_traceback():
    def mistaken():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        entry.run(mistaken)


def test_bad_input_is_one_line(capsys):
    def refuse():
        raise UserError("no such file.")

    with pytest.raises(SystemExit) as end:
        entry.run(refuse)
    assert end.value.code == 2 and capsys.readouterr().err == "error: no such file.\n"
