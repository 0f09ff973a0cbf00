"""The class of a processor, and how far the environment restricts it: as torch's and oneDNN's own kernels are."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from htc_fast import device
from htc_fast.device import CLASSES, MALLOC_VARIABLES, instructions, native_instructions, processor_class, supports
from htc_fast.ops import amx

CPU = torch.device("cpu")
ASK = """
import torch
from htc_fast.device import processor_class, supports
from htc_fast.ops import _native, amx, winograd
from htc_fast.profiling.limits import device_name
cpu, weight = torch.device("cpu"), torch.zeros(32, 32, 3, 3)
types = [str(t)[6:] for t in (torch.bfloat16, torch.float16, torch.int8) if supports(t, cpu)]
pays = [str(t)[6:] for t in winograd.TYPES if winograd.pays(weight, t)]
pays += ["amx"] * amx.pays(weight, torch.bfloat16)
print(processor_class(), _native.build.instruction_set, ",".join(types) or "-", ",".join(pays) or "-", device_name(cpu))
"""


def asked(**environment):
    kept = {name: value for name, value in os.environ.items() if name not in device.RESTRICTED}
    command = [sys.executable, "-W", "error::UserWarning", "-c", ASK]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "environment, most, kernels, types, pays",
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "amx", "avx512", {"bfloat16", "float16", "int8"}, {"float32"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512-bf16", "avx512", {"bfloat16", "int8"}, {"bfloat16"}),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, "avx512-vnni", "avx512", {"int8"}, {"bfloat16"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512", "avx512", set(), {"bfloat16"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"}, "avx2-vnni", "avx2", {"int8"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "avx2", "avx2", set(), set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, "avx512-bf16", "avx512", {"bfloat16", "float16", "int8"}, {"bfloat16"}),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, "avx2", "avx512", set(), set()),
        ({"ATEN_CPU_CAPABILITY": "default"}, "baseline", "baseline", set(), set()),
    ],
)
def test_it_is_restricted_by_the_variables_of_torch_and_onednn(environment, most, kernels, types, pays):
    found, native, can, fast, name = asked(**environment)
    order = [*CLASSES, "baseline"]
    here = processor_class(native_instructions())
    if order.index(here) > order.index(most):
        pytest.skip(f"this processor is {here}, no more than that")
    assert (found, native) == (most, kernels)
    assert {*can.split(",")} - {"-"} <= types and ("-" in can or types)
    assert ("amx" in fast) == (most == "amx" and amx._ready())
    assert pays <= {*fast.split(",")} and ("bfloat16" in fast) <= (most not in ("amx", "baseline"))
    assert name.endswith(f"-as-{most}") == (most != here)


def test_without_them_it_is_what_it_is():
    found, *_, name = asked()
    assert found == processor_class(native_instructions()) and "-as-" not in name


def test_words_that_name_no_instructions_restrict_nothing():
    assert asked(ONEDNN_MAX_CPU_ISA="DEFAULT")[0] == asked(ONEDNN_MAX_CPU_ISA="nonsense")[0] == asked()[0]


def test_torch_takes_its_words_in_small_letters_alone(monkeypatch):
    monkeypatch.setattr(device, "native_instructions", lambda: frozenset({"avx2", "avx512_f"}))
    for word, left in (("AVX2", {"avx2", "avx512_f"}), ("avx2", {"avx2"})):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", word)
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        assert instructions.__wrapped__() == left


@pytest.mark.parametrize(
    "words, named",
    [
        ({"avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}, "amx"),
        ({"avx2", "avx512_f", "avx512_vnni", "avx512_bf16"}, "avx512-bf16"),
        ({"avx2", "avx512_f"}, "avx512"),
        ({"avx2", "avx_vnni", "fma3"}, "avx2-vnni"),
        ({"neon", "dot"}, "neon"),
        ({"neon", "bf16", "i8mm"}, "neon-bf16"),
        ({"sse4_2"}, "baseline"),
    ],
)
def test_a_class_is_named_by_what_it_adds(words, named):
    assert processor_class(frozenset(words)) == named


def test_it_has_types_by_its_instructions(monkeypatch):
    monkeypatch.setattr(device, "instructions", lambda: frozenset({"neon", "i8mm"}))
    assert supports(torch.int8, CPU) and supports(torch.float32, CPU) and not supports(torch.bfloat16, CPU)
    monkeypatch.setattr(device, "instructions", lambda: frozenset({"avx2"}))
    assert not supports(torch.int8, CPU) and not supports(torch.float16, CPU)


def test_no_more_is_used_than_is_there():
    assert instructions() <= native_instructions()


FAULTS = """
import resource
import torch
from htc_fast.device import keep_memory
kept = keep_memory()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(6):  # in some of which malloc still finds its places
    [torch.ones(2 << 20) for _ in range(3)]  # 8 MB each
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(kept, min(after - before for before, after in zip(faults, faults[1:])))
"""


def faults(**environment):
    """Whether memory is kept, and the page faults of taking 24 MB, 6144 pages, once more."""
    inherited = {name: value for name, value in os.environ.items() if name not in MALLOC_VARIABLES}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    kept, count = faults()
    assert kept == "True" and count < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_who_says_in_the_environment_what_malloc_keeps_is_not_overruled():
    kept, count = faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False" and count > 5000


def test_who_made_the_processor_is_read(tmp_path):
    for maker, intel in (("GenuineIntel", True), ("AuthenticAMD", False)):
        (tmp_path / maker).write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
        assert device.is_intel(tmp_path / maker) == intel
