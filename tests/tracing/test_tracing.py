"""The trace of one call: units made, read and refused, for modules small enough to follow by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace


def traced(module: nn.Module, *inputs: Any) -> Trace:
    fn, params, buffers = l0.make_functional(module.eval())
    return follow(fn, params, buffers, inputs)


def units(trace: Trace, path: str, dim: int) -> list[int]:
    return trace.units.roots(trace.slices[path, dim].labels).tolist()


def test_a_hidden_units_row_bias_and_column_are_one_unit():
    trace = traced(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 4))
    rows = units(trace, "0.weight", 0)
    assert len(set(rows)) == 3
    assert units(trace, "0.bias", 0) == units(trace, "2.weight", 1) == rows
    assert all(trace.units.reason(unit) is None for unit in rows)
    assert trace.slices["2.weight", 1].reads.all()
    assert not trace.slices["2.weight", 1].owns.any()
    assert trace.slices["0.weight", 0].owns.all()


def test_outputs_and_units_joined_with_an_input_cannot_be_removed():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.inner(x))

    trace = traced(Residual(), torch.ones(2, 4))
    assert (
        trace.units.reason(units(trace, "last.weight", 0)[0]) == "they are an output of the module"
    )
    assert (
        trace.units.reason(units(trace, "inner.weight", 0)[0])
        == "they are joined with an input of the module"
    )


def test_a_convolutions_channels_are_blocks_of_a_flattened_layer():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    trace = traced(net, torch.ones(2, 1, 4, 4))
    channels = units(trace, "0.weight", 0)
    assert units(trace, "3.weight", 1) == [unit for unit in channels for _ in range(4)]
    for path in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert units(trace, path, 0) == channels


def test_multiplications_are_counted_by_hand():
    trace = traced(
        nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 5)),
        torch.ones(7, 1, 4, 4),
    )
    assert trace.uses["0.weight"].item() == 7 * 2 * 2
    assert trace.uses["2.weight"].item() == 7


def test_an_operation_without_a_rule_keeps_its_units_and_says_so():
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.fft.fft(self.inner(x)).real)

    trace = traced(Fourier(), torch.ones(2, 4))
    reason = trace.units.reason(units(trace, "inner.weight", 0)[0])
    assert reason is not None
    assert "_fft_r2c" in reason


def test_what_no_output_is_computed_from_keeps_nothing():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            F.layer_norm(h, (4,))
            return self.last(h)

    trace = traced(Unused(), torch.ones(2, 4))
    assert trace.units.reason(units(trace, "inner.weight", 0)[0]) is None
