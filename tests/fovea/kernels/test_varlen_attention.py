"""The kernels that PyTorch brings and the formula that stands in for them say the same."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fovea.kernels import varlen_attention
from fovea.kernels.varlen_attention import Lengths, attend, attend_by_formula, gradients, gradients_by_formula

CPU = torch.device("cpu")


def some_inputs(queries, keys, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    shapes = (sum(queries), 4, 16), (sum(keys), 2, 16), (sum(keys), 2, 16)
    return [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("by_formula", [False, True])
def test_each_sequence_attends_to_its_own_keys(causal, by_formula, monkeypatch):
    if by_formula:
        monkeypatch.setattr(varlen_attention, "_kernels", lambda q: (attend_by_formula, gradients_by_formula))
    queries = [3, 40, 7]
    keys = queries if causal else [5, 2, 60]
    inputs = [tensor.requires_grad_() for tensor in some_inputs(queries, keys)]
    q, k, v = inputs
    expected, lses = [], []
    for at, to in zip(Lengths(queries, CPU), Lengths(keys, CPU), strict=True):
        one = [tensor.transpose(0, 1)[None] for tensor in (q[at], k[to], v[to])]
        out = scaled_dot_product_attention(*one, is_causal=causal, scale=0.3, enable_gqa=True)
        expected.append(out[0].transpose(0, 1))
        scores = 0.3 * one[0] @ one[1].repeat_interleave(2, dim=1).mT
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool() & causal
        lses.append(scores.masked_fill(hidden, -torch.inf).logsumexp(-1)[0])
    expected = torch.cat(expected)
    weights = torch.randn_like(expected)
    oracle = torch.autograd.grad((expected * weights).sum(), inputs)
    plain = [tensor.detach() for tensor in inputs]
    spans = Lengths(queries, CPU), Lengths(keys, CPU)
    output, lse = attend(*plain, *spans, causal=causal, scaling=0.3)
    ours = gradients(weights, *plain, output, lse, *spans, causal=causal, scaling=0.3)
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(lse, torch.cat(lses, dim=1), atol=1e-5)
    for a, b in zip(ours, oracle, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("kernels", "dtype"), [("_has_flash", torch.bfloat16), ("_has_efficient", torch.float32)])
def test_calls_of_the_cuda_kernels_fit_their_signatures(monkeypatch, kernels, dtype):
    """Only shapes can be checked without a GPU; of the efficient backward PyTorch's own meta function lacks `out`."""
    monkeypatch.setattr(varlen_attention, kernels, lambda q: True)
    plain = some_inputs([3, 40], [5, 60], device="meta", dtype=dtype)
    spans = Lengths([3, 40], torch.device("meta")), Lengths([5, 60], torch.device("meta"))
    output, lse = attend(*plain, *spans, causal=False, scaling=0.3)
    assert (output.shape, lse.shape) == (plain[0].shape, (4, 43))
    if kernels == "_has_efficient":
        return
    found = gradients(output, *plain, output, lse, *spans, causal=False, scaling=0.3)
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in plain]


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "expected"),
    [
        ((9, 0), torch.bfloat16, 128, "flash"),
        ((8, 0), torch.float16, 64, "flash"),
        ((8, 0), torch.float32, 64, "efficient"),
        ((7, 5), torch.float16, 64, "efficient"),
        ((7, 5), torch.float32, 64, "efficient"),
        ((7, 5), torch.bfloat16, 64, "formula"),
        ((9, 0), torch.float64, 64, "formula"),
        ((9, 0), torch.float32, 30, "formula"),
    ],
)
def test_each_card_and_type_gets_kernels_that_it_has(monkeypatch, capability, dtype, width, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    size = torch.tensor([], dtype=dtype).element_size()
    q = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), dtype=dtype, shape=(5, 4, width), element_size=lambda: size
    )
    chosen = [name for name in ("flash", "efficient") if getattr(varlen_attention, f"_has_{name}")(q)]
    assert (chosen or ["formula"])[0] == expected
