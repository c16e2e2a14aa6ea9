"""A module may lay its tensors out as it likes inside ``per_example``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

LAST = torch.channels_last
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "to": lambda x: x.to(memory_format=LAST),
    "to a type": lambda x: x.to(torch.float64, memory_format=LAST).float(),
    "contiguous": lambda x: x.contiguous(memory_format=LAST),
    "clone": lambda x: x.clone(memory_format=LAST),
    "asked": lambda x: x if x.is_contiguous(memory_format=LAST) else x.contiguous(),
    "empty_like": lambda x: x + torch.empty_like(x, memory_format=LAST).fill_(1.0),
    "zeros_like": lambda x: x + torch.zeros_like(x, memory_format=torch.preserve_format),
    "rand_like": lambda x: x + torch.rand_like(x, memory_format=LAST),
    "viewed": lambda x: x.contiguous(memory_format=LAST).reshape(x.shape[0], -1, 1, 1),
}


class _LaidOut(nn.Module):
    def __init__(self, layout: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.layout(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("input_format", [torch.contiguous_format, LAST])
def test_rows_in_any_memory_format_equal_plain_calls(
    layout: Callable[[Tensor], Tensor], input_format: torch.memory_format
) -> None:
    fn, params, buffers = l0.make_functional(_LaidOut(layout))
    spec = l0.gate_spec(params, {"conv.weight": l0.element()})
    gates, keys = l0.init_gates(l0.random.key(0), spec), l0.random.split(l0.random.key(1), 3)
    x = torch.randn(3, 2, 4, 4).to(memory_format=input_format)
    apply = l0.gated(fn, spec)
    rows = l0.per_example(apply)(params, gates, buffers, keys, x)
    plain = [apply(params, gates, buffers, key, x[i : i + 1]) for i, key in enumerate(keys)]
    torch.testing.assert_close(rows, torch.cat(plain))
