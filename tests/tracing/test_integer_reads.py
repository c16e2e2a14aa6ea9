"""Forward reads its integer inputs while it is traced; it reads no floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0

X = torch.sin(torch.arange(12.0)).reshape(3, 4)
LENGTHS = torch.tensor([1, 3, 2])


class Reads(nn.Module):
    def __init__(self, step: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.step = nn.Linear(4, 6), nn.Linear(6, 2), step

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        return self.b(self.step(torch.relu(self.a(x)), n, x))


STEPS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "all": lambda h, n, x: -h if n.bool().all() else h,
    "sum": lambda h, n, x: -h if (n > 2).sum() == n.numel() else h,
    "item": lambda h, n, x: h * n.max().item(),
    "int": lambda h, n, x: h[: int(n.max())],
    "tolist": lambda h, n, x: h * max(n.tolist()),
    "equal": lambda h, n, x: h if torch.equal(n, n + 1) else 2 * h,
    "range": lambda h, n, x: sum((h for _ in range(int(n[1]))), start=h),
    "a table that forward makes": lambda h, n, x: (
        h * torch.linspace(1, 2, 5)[n.long(), None].expand_as(h)
    ),
    "a number for a mask": lambda h, n, x: h * (torch.arange(3)[:, None] < n.max().item()),
}


@pytest.mark.parametrize("kind", [torch.long, torch.int32, torch.uint8])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_integer_inputs_are_read_and_units_behind_them_go_exactly(step, kind):
    net, n = Reads(step), LENGTHS.to(kind)
    groups = l0.unit_groups(net, X, n)
    assert groups.sizes == {"a": 6}
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups)
    gates = {"a": torch.tensor([3.0, -9, 3, -9, 3, 3])}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=(X, n))
    pruned = l0.prune(params, gates, spec)
    for other in (n, n.clamp(max=1) + 1):
        expected = functional_call(net, pruned, (X, other))
        torch.testing.assert_close(small.fn(small.params, small.buffers, X, other), expected)
    assert l0.count_macs(fn, params, buffers, X, n).by_parameter["a.weight"] == 3 * 4 * 6


def on_activations(h: Tensor, n: Tensor, x: Tensor) -> Tensor:
    return -h if h.sum() > 0 else h


def on_an_input(h: Tensor, n: Tensor, x: Tensor) -> Tensor:
    return -h if (x.sum() > 0) & n.bool().any() else h


def on_what_floats_chose(h: Tensor, n: Tensor, x: Tensor) -> Tensor:
    return h * n[x[:, 0].argmax()].item()


REFUSED: list[Any] = [on_activations, on_an_input, on_what_floats_chose]


@pytest.mark.parametrize("step", REFUSED)
def test_floats_are_refused_with_the_line_that_reads_them(step):
    match = rf"branches on data.*test_integer_reads\.py:\d+, in {step.__name__}.*integer and bool"
    with pytest.raises(ValueError, match=match):
        l0.unit_groups(Reads(step), X, LENGTHS)
    with pytest.raises(ValueError, match=match):
        l0.count_macs(*l0.make_functional(Reads(step)), X, LENGTHS)


class Unpacked(nn.Module):
    """A recurrent layer that reads whole rows."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Packed(Unpacked):
    """The same layers for rows of several lengths."""

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        return self.out(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


SEQUENCES = torch.sin(torch.arange(36.0)).reshape(3, 3, 4)
# torch packs rows by lengths on the CPU alone.
ON_CPU = LENGTHS.cpu()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_packed_sequence_is_named_and_the_advice_is_exact(kind):
    net = Packed(kind)
    match = r"packed sequence.*test_integer_reads.py:\d+, in forward.*without example_inputs"
    with pytest.raises(ValueError, match=match):
        l0.unit_groups(net, SEQUENCES, ON_CPU)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(Unpacked(kind), SEQUENCES, ON_CPU))
    gates = {"rnn": torch.tensor([3.0, -9, 3, -9, 3, 3])}
    with pytest.raises(ValueError, match=match):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=(SEQUENCES, ON_CPU))
    small = l0.compact(fn, params, gates, buffers, spec)
    expected = fn(l0.prune(params, gates, spec), buffers, SEQUENCES, ON_CPU)
    got = small.fn(small.params, small.buffers, SEQUENCES, ON_CPU)
    torch.testing.assert_close(got, expected)


def test_a_branch_on_packed_numbers_is_still_a_branch():
    class Branches(Packed):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True)
            return self.out(self.rnn(-x if packed.data.sum() > 0 else x)[0])

    lengths = torch.tensor([3, 2, 1], device="cpu")
    with pytest.raises(ValueError, match=r"branches on data"):
        l0.unit_groups(Branches(nn.GRU), SEQUENCES, lengths)
