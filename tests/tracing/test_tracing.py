"""The trace of one call: units made, read and refused, for modules followed by hand."""

from __future__ import annotations

import pytest
import torch
from device import RELEASE
from torch import Tensor, nn
from torch.nn import functional as F
from traces import Scaled, between, reason, traced, units


def test_a_hidden_units_row_bias_and_column_are_one_unit():
    trace = traced(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 4))
    rows = units(trace, "0.weight", 0)
    assert len(set(rows)) == 3
    assert units(trace, "0.bias", 0) == units(trace, "2.weight", 1) == rows
    assert all(trace.units.reason(unit) is None for unit in rows)
    assert trace.slices["2.weight", 1].reads.all()
    # The first layer reads the inputs.
    assert trace.slices["0.weight", 1].reads.all()
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


class Beside(nn.Module):
    """A product of two parameters, and hidden layers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.after_a = nn.Linear(4, 3), nn.Linear(3, 2)
        self.m, self.n = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3, 2))
        self.z, self.after_z = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_a(self.a(x)) + x @ (self.m @ self.n) + self.after_z(self.z(x))


def test_a_parameter_that_stays_whole_keeps_no_units_of_others():
    trace = traced(Beside(), torch.ones(5, 4))
    assert set(trace.kept_whole) == {"m", "n"}
    for path in ("a.weight", "z.weight"):
        assert reason(trace, path) == ""


def test_a_parameter_with_one_use_that_is_not_followed_keeps_the_units_that_it_reads():
    trace = traced(
        Scaled(torch.ones(6, 6), lambda h, w: (h @ w) * F.glu(w).mean()), torch.ones(2, 4)
    )
    assert reason(trace, "first.weight") == (
        "'scale' goes through the operation 'glu', which cannot be followed"
    )


def test_a_product_of_two_parameters_is_counted_for_the_last():
    trace = traced(Beside(), torch.ones(5, 4))
    # Four rows of three by three columns of two, for six entries.
    assert trace.uses["n"].item() * 6 == 4 * 3 * 2
    assert "m" not in trace.uses
    assert trace.counted == 5 * 2 * (4 * 3 + 3 * 2) + 4 * 3 * 2 + 5 * 4 * 2


def test_an_operation_without_a_transfer_function_keeps_its_units_and_says_so():
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.fft.fft(self.inner(x)).real)

    trace = traced(Fourier(), torch.ones(2, 4))
    why = trace.units.reason(units(trace, "inner.weight", 0)[0])
    assert why is not None
    assert "_fft_r2c" in why


def test_what_no_output_is_computed_from_keeps_nothing():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            F.layer_norm(h, (4,))
            # New tensors must not be taken for the norm's mean, which nobody holds any more.
            for _ in range(20):
                h = h + 1
            return self.last(h)

    for _ in range(20):
        assert reason(traced(Unused(), torch.ones(2, 4)), "inner.weight") == ""


def test_a_refusal_counts_if_its_result_is_written_through_a_view():
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(4, 3), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            whole = torch.zeros(2, 5)
            whole[:, 1:4].copy_(self.inner(x).softmax(-1))
            return self.last(whole)

    trace = traced(Written(), torch.ones(2, 4))
    assert reason(trace, "inner.weight") == "the operation '_softmax' runs over them"


def test_a_forward_that_branches_on_sizes_is_followed_and_one_on_data_is_refused():
    class Branching(nn.Module):
        def __init__(self, data: bool) -> None:
            super().__init__()
            self.data, self.inner, self.last = data, nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            positive = h.sum() > 0 if self.data else torch.ones_like(h).sum() > 0
            return self.last(h if positive else -h)

    assert reason(traced(Branching(data=False), torch.ones(2, 4)), "inner.weight") == ""
    with pytest.raises(ValueError, match="branches on data"):
        traced(Branching(data=True), torch.ones(2, 4))


def test_a_nested_tensor_is_refused_by_name_and_line():
    def forward(h: Tensor) -> Tensor:
        nested = torch.nested.as_nested_tensor([h[:1], h])
        return torch.nested.to_padded_tensor(nested, 0.0)

    with pytest.raises(ValueError, match=r"nested tensor, in '\w+' \(test_tracing.py:\d+"):
        between(forward)


@pytest.mark.skipif(
    RELEASE < (2, 9), reason="torch 2.6 stops such an operator at a context that it does not know"
)
def test_an_operator_that_runs_functions_is_refused_by_name_and_line():
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return self.last(torch.cond(h.sum() > 0, torch.sin, torch.cos, (h,)))

    with pytest.raises(ValueError, match=r"calls 'cond', .*test_tracing\.py:\d+"):
        traced(Choosing(), torch.ones(2, 4))
