"""Every product counts, whatever its factors are: inputs, parameters, constants or both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import l0func as l0

Product = Callable[["Factors", Tensor], Tensor]


class Factors(nn.Module):
    """Parameters, a buffer and a plain tensor, and a product of some of them."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.product = product
        self.a, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 5))
        self.many = nn.Parameter(torch.randn(2, 4, 5))
        self.vector = nn.Parameter(torch.randn(4))
        self.kernel = nn.Parameter(torch.randn(3, 4, 2))
        self.register_buffer("table", torch.randn(6, 4))
        self.plain = torch.randn(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x.sum() + self.product(self, x).sum()


# Torch's counter has no formula for the second kind: for these the number is written out.
COUNTED: dict[str, Product] = {
    "two parameters": lambda m, x: m.a @ m.b,
    "three parameters": lambda m, x: m.a @ (m.plain.new_ones(4, 4) @ m.b),
    "a parameter and a table": lambda m, x: m.table @ m.b,
    "a linear layer of a parameter": lambda m, x: F.linear(m.table, m.a, m.vector[:3]),
    "a parameter times itself": lambda m, x: m.b.T @ m.b,
    "batches of parameters": lambda m, x: m.a.expand(2, 3, 4) @ m.many,
    "an einsum of parameters": lambda m, x: torch.einsum("ij,njk->nik", m.a, m.many),
    "plain tensors": lambda m, x: m.plain @ m.plain,
    "new tensors": lambda m, x: torch.eye(4) @ torch.ones(4, 5),
    "a plain tensor and an input": lambda m, x: x @ m.plain,
    "a parameter with a function of it": lambda m, x: m.a @ m.b.exp(),
    "a kernel that forward computes": lambda m, x: F.conv1d(x.mT, m.kernel.exp()),
    "a kernel of constants": lambda m, x: F.conv1d(x.mT, torch.ones(3, 4, 2)),
    "a convolution of parameters": lambda m, x: F.conv1d(m.many.flatten(0, 1)[None, :4], m.kernel),
    "a transposed one": lambda m, x: F.conv_transpose1d(m.many[:, :3], m.kernel, stride=2),
}
WRITTEN: dict[str, tuple[Product, int]] = {
    "mv": (lambda m, x: torch.mv(m.a, x[0, 0]), 3 * 4),
    "mv of parameters": (lambda m, x: torch.mv(m.a, m.vector), 3 * 4),
    "addmv": (lambda m, x: torch.addmv(m.vector[:3], m.a, x[0, 0]), 3 * 4),
    "addbmm": (lambda m, x: torch.addbmm(m.b[:3], m.a.expand(2, 3, 4), m.many), 2 * 3 * 4 * 5),
    "dot": (lambda m, x: torch.dot(m.vector, x[0, 0]), 4),
    "vdot": (lambda m, x: torch.vdot(m.vector, x[0, 0]), 4),
}


def counted(product: Product) -> tuple[l0.MacCounts, nn.Module, Tensor]:
    module, x = Factors(product), torch.randn(2, 6, 4)
    counts = l0.count_macs(*l0.make_functional(module), x)
    assert counts.total == sum(counts.by_parameter.values()) + sum(p.macs for p in counts.products)
    return counts, module, x


@pytest.mark.parametrize("name", COUNTED)
def test_a_product_counts_as_torch_s_counter_says(name: str):
    torch._C._set_mkldnn_enabled(False)
    try:
        counts, module, x = counted(COUNTED[name])
        with FlopCounterMode(display=False) as counter:
            module(x)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert counts.total == counter.get_total_flops() / 2 > 0


@pytest.mark.parametrize("name", WRITTEN)
def test_a_product_that_torch_s_counter_leaves_out_counts_too(name: str):
    product, expected = WRITTEN[name]
    assert counted(product)[0].total == expected


def test_two_parameters_count_for_the_second_one():
    counts, module, _ = counted(COUNTED["two parameters"])
    assert counts.by_parameter == {"b": 3 * 4 * 5}
    params = dict(module.named_parameters())
    spec = l0.gate_spec(params, {"b": l0.axis(1)})
    gates = {"b": torch.tensor([9.0, -9.0, 9.0, 9.0, -9.0])}
    assert l0.realised_macs(gates, spec, counts) == 3 * 4 * 3
