"""Rows that read different integers out of their inputs run apart, against a loop over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import hides_indexing
from torch import Tensor, nn

import l0func as l0
from l0func import random

KEYS = random.split(random.key(1), 5)
X = torch.sin(3 * torch.arange(5 * 6, dtype=torch.float64)).reshape(5, 6)
COUNTS = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0], [2, 0, 0]])


class Reads(nn.Module):
    """Two layers, with a step between them that sees an integer input."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.step = nn.Linear(6, 6).double(), nn.Linear(6, 2).double(), step

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return self.b(self.step(self.a(x), counts))


def read_from(step: Callable[[Tensor, Tensor], Tensor], **settings: Any) -> tuple[Any, ...]:
    fn, params, buffers = l0.make_functional(Reads(step))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)
    return l0.per_example(apply, **settings), apply, params, gates, buffers


def with_repeats(h: Tensor, counts: Tensor) -> Tensor:
    for _ in range(counts.sum()):
        h = h.tanh()
    return h


def until_empty(h: Tensor, counts: Tensor) -> Tensor:
    while (counts > 0).any():
        h, counts = h.sin(), counts - 1
    return h


def in_place(h: Tensor, counts: Tensor) -> Tensor:
    places = torch.arange(6)[None] % 3
    places += torch.full_like(places, 1)
    places[:, torch.zeros_like(places[0, :1])] += 1
    return h * places * counts.sum()


STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all": lambda h, n: -h if n.all() else h,
    "any": lambda h, n: -h if (n == 2).any() else h,
    "sum": lambda h, n: -h if n.sum() == n.numel() else h,
    "two reads": lambda h, n: (h.tanh() if n.all() else h) * (2 if (n > 1).any() else 3),
    "item": lambda h, n: h * n.sum().item(),
    "int": lambda h, n: h[:, : int(n.sum())].sum(1, keepdim=True) + h,
    "float of an integer": lambda h, n: h * float(n.max()),
    "tolist": lambda h, n: h * sum(n.tolist()[0]),
    "numpy": lambda h, n: h * float(n.cpu().numpy().sum()),
    "equal": lambda h, n: h if torch.equal(n, torch.ones_like(n)) else -h,
    "in": lambda h, n: h if 2 in n else -h,
    "nonzero": lambda h, n: h + h.index_select(1, n[0].nonzero().flatten()).sum(),
    "masked_select": lambda h, n: h + h[:, :3].masked_select(n.bool()).sum(),
    "unique": lambda h, n: h * torch.unique(n).sum(),
    "range": with_repeats,
    "while": until_empty,
    "integers written in place": in_place,
}

if not hides_indexing():
    STEPS["a mask as index"] = lambda h, n: h + h[:, :3][n > 0].sum()


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 2}], ids=["whole", "chunks"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_rows_may_read_their_own_integers(step, settings):
    rows, apply, *network = read_from(step, **settings)
    loop = [apply(*network, k, X[i : i + 1], COUNTS[i : i + 1]) for i, k in enumerate(KEYS)]
    torch.testing.assert_close(rows(*network, KEYS, X, COUNTS), torch.cat(loop))


@pytest.mark.parametrize("name", ["all", "two reads", "equal", "range", "nonzero"])
def test_rows_with_several_masks_may_read_their_own_integers(name):
    rows, apply, *network = read_from(STEPS[name])
    keys = random.split(KEYS, 3)
    ours = rows(*network, keys, X, COUNTS)
    assert ours.shape == (5, 3, 2)
    for i in range(5):
        for m in range(3):
            one = apply(*network, keys[i, m], X[i : i + 1], COUNTS[i : i + 1])
            torch.testing.assert_close(ours[i : i + 1, m], one)


def test_parts_have_gradients_and_tangents_and_map_over_networks():
    rows, apply, params, gates, buffers = read_from(STEPS["two reads"])

    def by_rows(p: Any) -> Tensor:
        return rows(p, gates, buffers, KEYS, X, COUNTS).square().sum()

    def by_loop(p: Any) -> Tensor:
        calls = []
        for i, key in enumerate(KEYS):
            calls.append(apply(p, gates, buffers, key, X[i : i + 1], COUNTS[i : i + 1]))
        return torch.cat(calls).square().sum()

    torch.testing.assert_close(torch.func.grad(by_rows)(params), torch.func.grad(by_loop)(params))
    ones = {path: torch.ones_like(p) for path, p in params.items()}
    ours, other = [torch.func.jvp(f, (params,), (ones,)) for f in (by_rows, by_loop)]
    torch.testing.assert_close(ours, other)
    stacked = {path: torch.stack([p, 2 * p]) for path, p in params.items()}
    both = torch.vmap(by_rows)(stacked)
    torch.testing.assert_close(both, torch.stack([by_loop(params), by_loop(double(params))]))


def double(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {path: 2 * p for path, p in params.items()}


def test_the_module_face_trains_on_rows_that_read_their_own_integers():
    net = l0.L0Module(Reads(STEPS["all"]), 0.0, per_example=True, seed=0)
    output = net(X, counts=COUNTS)
    output.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    keys = random.split(net.key_of(1), 5)
    fn, params, buffers = l0.make_functional(net.module)
    rows = l0.per_example(l0.gated(fn, net.spec))
    expected = rows(params, net.gates(), buffers, keys, X, counts=COUNTS)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    "step",
    [
        lambda h, n: -h if h.sum() > 0 else h,
        lambda h, n: -h if (h.sum() > 0) & n.all() else h,
        lambda h, n: h * (h > 0).long().sum().item(),
    ],
    ids=["floats", "floats and integers", "integers from floats"],
)
def test_a_value_that_depends_on_masked_weights_is_refused_as_before(step):
    rows, _, *network = read_from(step)
    with pytest.raises(ValueError, match="differs from row to row"):
        rows(*network, KEYS, X, COUNTS)


def test_rows_whose_outputs_differ_in_shape_are_refused():
    class Cuts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(6).double())

        def forward(self, x: Tensor, counts: Tensor) -> Tensor:
            return (x * self.w)[:, : int(counts.sum())]

    fn, params, buffers = l0.make_functional(Cuts())
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    with pytest.raises(ValueError, match=r"different shapes, \[\(.,\)\] and \[\(.,\)\]"):
        l0.per_example(l0.gated(fn, spec))(params, gates, buffers, KEYS, X, COUNTS)


def test_batch_statistics_are_never_those_of_a_part():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6).double()

        def forward(self, x: Tensor, counts: Tensor) -> Tensor:
            return self.norm(-x if counts.all() else x)

    fn, params, buffers = l0.make_functional(Normed())
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    with pytest.raises(ValueError, match="branches on inputs that differ between them"):
        rows(params, gates, buffers, KEYS, X, COUNTS)
    same, _ = rows.with_buffers(params, gates, buffers, KEYS, X, torch.ones_like(COUNTS))
    assert same.shape == (5, 6)


class Counts(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.w, self.own = nn.Parameter(torch.ones(6).double()), own

    def forward(self, x: Tensor) -> Any:
        y = x * self.w
        return {"y": y, "window": y.sum() if self.own else torch.tensor(4)}


def test_a_number_that_no_row_made_is_an_output_of_all_rows_and_a_row_s_own_is_refused():
    for own in (False, True):
        fn, params, buffers = l0.make_functional(Counts(own))
        spec = l0.gate_spec(params)
        gates = l0.init_gates(random.key(0), spec)
        rows = l0.per_example(l0.gated(fn, spec))
        for keys in (KEYS, random.split(KEYS, 3)):
            if own:
                with pytest.raises(ValueError, match=r"output\['window'\], and there is no such"):
                    rows(params, gates, buffers, keys, X)
            else:
                output = rows(params, gates, buffers, keys, X)
                assert output["y"].shape[0] == 5
                assert output["window"].item() == 4
