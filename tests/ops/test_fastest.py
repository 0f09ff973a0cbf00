"""What is measured to be faster: the choice follows the times, and is the same beside others and from every thread."""

import threading
import time

import pytest
import torch

from htc_fast.device import supports
from htc_fast.ops import _fastest, _onednn

CPU = torch.device("cpu")
BF16 = supports(torch.bfloat16, CPU)
needs_linear = pytest.mark.skipif(not _onednn.has_linear(), reason="torch has no oneDNN")


def timed(monkeypatch, product=(1.0, 1.0), layers=(1.0, 1.0), bf16=True):
    """Measure with these seconds: torch's and oneDNN's product; layers in float32 and in bf16."""
    times = iter((list(product), list(layers)))
    monkeypatch.setattr(_fastest, "best", lambda calls: next(times)[: len(calls)])
    monkeypatch.setattr(_fastest, "supports", lambda dtype, device: bf16 or dtype == torch.float32)
    return _fastest.measure()


@needs_linear
@pytest.mark.parametrize("product, onednn", [((2.0, 1.0), True), ((1.1, 1.0), False), ((1.0, 2.0), False)])
def test_products_are_onednn_s_where_that_is_clearly_faster(monkeypatch, product, onednn):
    assert timed(monkeypatch, product=product).onednn is onednn


@pytest.mark.parametrize(
    "layers, dtype",
    [((2.0, 1.0), torch.bfloat16), ((0.95, 1.0), torch.bfloat16), ((0.7, 1.0), torch.float32)],
)
def test_bf16_is_taken_unless_it_is_clearly_slower(monkeypatch, layers, dtype):
    assert timed(monkeypatch, layers=layers).dtype == dtype


def test_a_processor_without_bf16_is_not_asked(monkeypatch):
    assert timed(monkeypatch, layers=(2.0, 1.0), bf16=False).dtype == torch.float32


def test_without_onednn_s_product_torch_s_own_is_taken(monkeypatch):
    monkeypatch.setattr(_onednn, "_linear", None)
    assert not _fastest.measure().onednn


def test_it_leaves_threads_types_and_random_numbers_as_they_are(monkeypatch):
    # What is faster may change from one measurement to the next; what is computed may not.
    seen = []

    def best(calls):
        seen.append([one().dtype for one in calls])
        return [2.0, 1.0][: len(calls)]

    monkeypatch.setattr(_fastest, "best", best)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(threads + 1)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            found = _fastest.measure()
        assert torch.get_num_threads() == threads + 1 and torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    try:
        assert _fastest.measure() == found
    finally:
        torch.set_default_dtype(torch.float32)
    half = len(seen) // 2
    assert half > 0 and seen[:half] == seen[half:] and not any(torch.float64 in one for one in seen)


def test_it_takes_a_fraction_of_a_second():
    _fastest.measure()  # libraries make their kernels
    took = []
    for _ in range(3):
        start = time.thread_time()
        _fastest.measure()
        took.append(time.thread_time() - start)
    assert 0 < min(took) < 0.5  # some 0.05


def test_threads_that_ask_at_once_get_one_answer_that_was_measured_once(monkeypatch):
    measured, ready = [], threading.Barrier(4)

    def measure():
        time.sleep(0.05)
        measured.append(_fastest.Fastest(True, torch.float32))
        return measured[-1]

    def ask():
        ready.wait()
        answers.append(_fastest.fastest())

    answers = []
    monkeypatch.setattr(_fastest, "_found", [])
    monkeypatch.setattr(_fastest, "measure", measure)
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert len(measured) == 1 and answers == measured * 4


@pytest.mark.parametrize("dtype", [torch.float32, *([torch.bfloat16] if BF16 else [])])
def test_what_is_timed_computes(dtype):
    with torch.no_grad():
        product = _fastest._product(dtype, False)()
        assert product.dtype == dtype and product.unique().item() == pytest.approx(_fastest.CHANNELS + 1, rel=1e-2)
        found = _fastest._convolution(dtype, 128, 128, 3)()
    # Of ones: as many as there are products; in bf16 rounded.
    corner, middle = found[0, 0, 0, 0].item(), found[0, 0, 9, 9].item()
    assert found.dtype == dtype and corner == pytest.approx(4 * 128, rel=1e-2)
    assert middle == pytest.approx(9 * 128, rel=1e-2)


@needs_linear
@pytest.mark.parametrize("relu", [False, True])
def test_onednn_s_product_is_torch_s(relu):
    torch.manual_seed(0)
    for rows, channels, outputs in ((1, 1, 1), (7, 33, 5), (100, 490, 64)):
        x, weight, bias = torch.randn(rows, channels), torch.randn(outputs, channels), torch.randn(outputs)
        want = torch.nn.functional.linear(x, weight, bias)
        with torch.no_grad():
            found = _onednn.linear(x, weight, bias, relu)
        torch.testing.assert_close(found, want.relu() if relu else want, rtol=1e-5, atol=1e-4)
