"""A trial takes two rows of the examples where forward computes each row by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0
from l0func.compaction.few_rows import few_rows
from l0func.pure.functional import Functional
from l0func.pure.inputs import read_examples

ROWS = 7


class Net(nn.Module):
    """Two layers; what comes between them, and what goes with the output, are given."""

    def __init__(self, between: Any = torch.relu, result: Any = lambda y: y) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.between, self.result = between, result

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        h = self.between(self.first(x))
        return self.result(self.last(h if scale is None else h * scale))


def needed(net: nn.Module, examples: Any) -> list[int]:
    """The rows of each tensor among the examples that are left."""
    fn, params, buffers = l0.make_functional(net.eval())
    inputs = few_rows(Functional(fn, params, buffers), read_examples(fn, examples))
    return [len(t) for t in (*inputs.args, *inputs.kwargs.values())]


X = l0.random.normal(l0.random.key(0), (ROWS, 4))


def whole_batch(h: Tensor) -> Tensor:
    return h - h.mean(0)


def just_seven(h: Tensor) -> Tensor:
    return h.reshape(ROWS, 6)


def test_two_rows_are_left_where_forward_computes_each_by_itself():
    assert needed(Net(), X) == [2]
    assert needed(Net(), (X, X[:, :1])) == [2, 2]
    assert needed(Net(), {"x": X, "scale": X[:, :1]}) == [2, 2]
    assert needed(Net(result=lambda y: {"y": y, "z": [y.sum(1)]}), X) == [2]
    assert needed(Net(), X[:2]) == [2]
    assert needed(Net(), X[:1]) == [1]


@pytest.mark.parametrize("between", [whole_batch, just_seven])
def test_all_rows_stay_where_a_row_depends_on_others(between):
    assert needed(Net(between), X) == [ROWS]


@pytest.mark.parametrize("result", [torch.mean, lambda y: (y, 1.5), lambda y: y.T])
def test_all_rows_stay_where_the_output_has_none(result):
    assert needed(Net(result=result), X) == [ROWS]


def test_all_rows_stay_where_inputs_have_other_numbers_of_them():
    assert needed(Net(), (X, X[0, :1])) == [ROWS, 1]
    assert needed(Net(), (X, torch.tensor(2.0).expand(6))) == [ROWS, 6]


def test_a_compaction_on_many_rows_removes_what_one_on_two_removes():
    net = Net().eval()
    with torch.no_grad():
        net.first.weight[1] = 0.0
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, X[:2]))
    gates = {"first": torch.tensor([4.0, 4.0, -9.0, 4.0, 4.0, -9.0])}
    many, two = (
        l0.compact(fn, params, gates, buffers, spec, example_inputs=x) for x in (X, X[:2])
    )
    assert many.params["first.weight"].shape == (3, 4)
    torch.testing.assert_close(many.params, two.params, rtol=0, atol=0)
    pruned = l0.prune(params, gates, spec)
    torch.testing.assert_close(many.fn(many.params, many.buffers, X), fn(pruned, buffers, X))


def test_most_calls_of_a_compaction_are_on_two_rows():
    rows: list[int] = []

    def noted(h: Tensor) -> Tensor:
        rows.append(len(h))
        return h.relu()

    net = Net(noted).eval()
    fn, params, _ = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, X[:2]))
    rows.clear()
    l0.compact(fn, params, {"first": torch.tensor([4.0, -9.0] * 3)}, {}, spec, example_inputs=X)
    assert set(rows) == {2, ROWS}
    # The comparisons and two traces are on all rows; each run of the trial is on two.
    assert rows.count(2) >= 8
    assert rows.count(ROWS) <= 12, rows


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_refit_without_a_row_is_refused(pack):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(6, 4)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
    gates = {"0": torch.tensor([4.0, -9.0, 4.0])}
    with pytest.raises(ValueError, match=r"examples hold no numbers: .*\(0, 4\)"):
        l0.refit(fn, params, gates, buffers, spec, pack(x[:0]))
    l0.refit(fn, params, gates, buffers, spec, pack(x))
