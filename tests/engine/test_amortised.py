"""Gates as a function of the input: every example has its own locations beside its own key."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0


class Looking(nn.Module):
    """A gate for every pixel, on what is seen of it; and a layer with dropout behind."""

    def __init__(self):
        super().__init__()
        self.look = nn.Parameter(torch.ones(6))
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))

    def forward(self, x):
        return self.net(x * self.look)


@pytest.mark.parametrize(
    "rules", [{"look": l0.element()}, {"net.0.weight": l0.element()}, {"net.2.weight": l0.axis(1)}]
)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_every_example_may_have_its_own_gates(rules, chunk_size):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(Looking())
    spec = l0.gate_spec(params, rules)
    apply, (gate,) = l0.gated(fn, spec), spec.gates
    x, keys = torch.randn(4, 6), l0.random.split(l0.random.key(0), 4)
    own = torch.randn(4, *gate.shape)

    def together(own):
        rows = l0.per_example(apply, gate_dims=0, chunk_size=chunk_size)
        return rows(params, {gate.name: own}, buffers, keys, x).square().sum()

    def apart(own):
        return sum(
            apply(params, {gate.name: own[i]}, buffers, keys[i], x[i : i + 1]).square().sum()
            for i in range(4)
        )

    for ours, theirs in zip(
        *(torch.func.grad_and_value(f)(own) for f in (together, apart)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    last = l0.per_example(apply, gate_dims=-1)(
        params, {gate.name: own.movedim(0, -1)}, buffers, keys, x
    )
    first = l0.per_example(apply, gate_dims=0)(params, {gate.name: own}, buffers, keys, x)
    torch.testing.assert_close(last, first, rtol=0, atol=0)
    with pytest.raises(ValueError, match="each of the 4 rows has gates of its own"):
        l0.per_example(apply, gate_dims=0)(params, {gate.name: own[:3]}, buffers, keys, x)
    with pytest.raises(ValueError, match=r"The spec has gates of shape"):
        l0.per_example(apply)(params, {gate.name: own}, buffers, keys, x)
