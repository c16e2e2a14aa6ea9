"""A trial works on what its units touch: the rest is neither copied nor written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import l0func as l0
from l0func import axis, blocks, tiles
from l0func.compaction.removal import kept_slices, remove
from l0func.compaction.scratch import Scratch
from l0func.compaction.trial import prepare_trial
from l0func.compaction.trial_weights import random_weights
from l0func.pure.functional import Functional, make_functional
from l0func.pure.inputs import fitting


class Words(nn.Module):
    """A large table that no unit touches, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(50, 4), nn.LayerNorm(4)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(self.norm(self.words(tokens)))


def parts(module: nn.Module, x: Tensor):
    fn, params, buffers = make_functional(module)
    return prepare_trial(Functional(fn.eval(), params, buffers), fitting(fn, (x,), {}))


def test_tensors_that_lose_nothing_are_shared_and_others_are_not():
    trial = parts(Words(), torch.arange(6).view(2, 3))
    groups = l0.unit_groups(Words(), torch.arange(6).view(2, 3))
    spec = l0.gate_spec(trial.params, groups=groups, buffers=trial.buffers)
    opens = {"net.0": torch.arange(6) < 4}
    small = remove(trial.fn, trial.params, trial.buffers, spec, opens)
    touched = {path for path, _ in (*groups["net.0"].multiplies, *groups["net.0"].owns)}
    for path, tensor in small.params.items():
        is_shared = tensor.data_ptr() == trial.params[path].data_ptr()
        assert is_shared == (path not in touched)


def test_compact_shares_no_memory_with_what_it_was_given():
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    fn, params, buffers = l0.make_functional(module.eval())
    spec = l0.gate_spec(params, groups={"u": l0.group({"3.weight": axis(1)})})
    small = l0.compact(fn, params, {"u": torch.full((6,), 9.0)}, buffers, spec)
    given = {t.data_ptr() for t in (*params.values(), *buffers.values())}
    assert given.isdisjoint(
        t.data_ptr() for t in (*small.params.values(), *small.buffers.values())
    )


def test_pruned_parameters_are_the_masked_ones_whatever_was_pruned_before():
    torch.manual_seed(0)
    params = {"a": torch.randn(12, 3), "b": torch.randn(4, 8), "c": torch.randn(5)}
    before = {path: p.clone() for path, p in params.items()}
    groups = {
        "u": l0.group({"b": blocks(1, 2)}, {"a": tiles(0, 3)}),
        "v": l0.group({"b": axis(0)}, {}),
    }
    spec = l0.gate_spec(params, groups=groups)
    scratch = Scratch(params)
    for _ in range(6):
        opens = {name: torch.rand(4) < 0.5 for name in groups}
        pruned = scratch.pruned(kept_slices(spec, opens))
        masks = {"u": opens["u"].double(), "v": opens["v"].double()}
        for plan in spec.gated():
            expected = params[plan.path] * plan.spread(masks, owned=True)
            assert torch.equal(pruned[plan.path].double(), expected.double())
        assert pruned["c"] is params["c"]
    assert all(torch.equal(before[path], p) for path, p in params.items())


def test_random_weights_follow_the_formula_in_every_row_of_a_large_tensor():
    tensors = {"large": torch.ones(3, 50_000), "small": torch.zeros(7), "count": torch.arange(3)}
    changed = random_weights(tensors, draw=0, noise=0.1)
    large = changed["large"]
    assert large.dtype == torch.float64
    assert bool(((large >= 0.4) & (large <= 1.6)).all())
    rows = large.flatten()[: 2 * 65_521].view(2, 65_521)
    assert torch.equal(rows[0], rows[1])
    # Two of 2**40 pairs of random numbers seldom have the same sum.
    assert len(rows[0].unique()) > 65_000
    assert len(large.unique(dim=0)) == 3
    assert len(changed["small"].unique()) == 7
    assert torch.equal(changed["count"], tensors["count"])
    assert not torch.equal(random_weights(tensors, 1, 0.1)["large"], large)


class Returning(nn.Module):
    """A module that returns a parameter beside its output, and counts units."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.tanh(self.a(x)).view(len(x), self.width)
        return self.c(torch.tanh(self.b(y))), self.c.bias


def test_a_parameter_in_the_output_is_compared_in_every_try():
    groups = l0.unit_groups(Returning(), torch.randn(3, 4))
    assert groups["a"].attrs == {"width": 1}
    trial = parts(Returning(), torch.randn(3, 4))
    assert trial.failure(groups) is None
    assert trial.failure(groups) is None
