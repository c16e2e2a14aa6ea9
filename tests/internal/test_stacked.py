"""A stack of networks where one is wanted is called a stack, with the way to its members."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
X = torch.randn(20, 6)
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS, groups=l0.unit_groups(NET, X))
GATES = {"0": torch.linspace(-4, 1, 8)}

READ_VALUES = {
    "prune at a density": lambda p, g: l0.prune(p, g, SPEC, density=0.5),
    "prune at densities": lambda p, g: l0.prune(p, g, SPEC, density={"*": 0.5}),
    "summary": lambda p, g: l0.summary(p, g, SPEC),
    "summary at a density": lambda p, g: l0.summary(p, g, SPEC, density=0.5),
    "compact": lambda p, g: l0.compact(FN, p, g, BUFFERS, SPEC),
    "compact on examples": lambda p, g: l0.compact(FN, p, g, BUFFERS, SPEC, example_inputs=X),
    "refit": lambda p, g: l0.refit(FN, p, g, BUFFERS, SPEC, X),
}
WANT_ONE = {
    **READ_VALUES,
    "prune": lambda p, g: l0.prune(p, g, SPEC),
    "penalty": lambda p, g: l0.penalty(p, g, SPEC, lam=0.1),
    "compensate": lambda p, g: l0.compensate(p, g, SPEC),
    "to_module": lambda p, g: l0.to_module(FN, p, BUFFERS),
    "a call": lambda p, g: FN(p, BUFFERS, X),
    "a gated call": lambda p, g: l0.gated(FN, SPEC)(p, g, BUFFERS, l0.random.key(0), X),
}
OF_GATES = {
    "expected_l0": lambda g: l0.expected_l0(g, SPEC),
    "sample_masks": lambda g: l0.sample_masks(l0.random.key(0), g, SPEC),
    "deterministic_masks": lambda g: l0.deterministic_masks(g, SPEC),
}


def stacked(tree, members=3):
    return l0.stack([tree] * members)


@pytest.mark.parametrize("call", READ_VALUES)
@pytest.mark.parametrize("dims", [(0, 0), (None, 0)], ids=["both", "gates"])
def test_a_map_over_a_call_that_reads_values_names_unstack(call, dims):
    given = (PARAMS if dims[0] is None else stacked(PARAMS), stacked(GATES))
    with pytest.raises(ValueError, match=r"torch\.vmap around this call.*l0func\.unstack"):
        torch.vmap(READ_VALUES[call], in_dims=dims)(*given)


def test_a_map_of_params_alone_is_named_too():
    for call in ("summary", "compact", "refit"):
        with pytest.raises(ValueError, match=r"'0\.weight' in params.*l0func\.unstack"):
            torch.vmap(READ_VALUES[call], in_dims=(0, None))(stacked(PARAMS), GATES)
    with pytest.raises(ValueError, match=r"to_sparse_csr reads values.*l0func\.unstack"):
        torch.vmap(lambda p: l0.to_sparse_csr(p))(stacked(PARAMS))


def test_a_map_inside_a_gradient_is_found():
    def loss(gates):
        return l0.prune(PARAMS, gates, SPEC, density=0.5)["2.weight"].sum()

    with pytest.raises(ValueError, match=r"l0func\.unstack"):
        torch.vmap(torch.func.grad(loss))(stacked(GATES))
    # A gradient alone knows the values.
    assert torch.func.grad(loss)(GATES)["0"].shape == (8,)


def test_what_reads_no_values_is_mapped_as_before():
    for estimator in ("louizos", "median", "mean", "count"):
        mapped = torch.vmap(lambda p, g, e=estimator: l0.prune(p, g, SPEC, e))
        pruned = mapped(stacked(PARAMS), stacked(GATES))
        one = l0.prune(PARAMS, GATES, SPEC, estimator)
        assert all(torch.equal(pruned[path][1], one[path]) for path in one)


@pytest.mark.parametrize("call", WANT_ONE)
@pytest.mark.parametrize("members", [1, 3])
def test_a_stack_in_place_of_a_network_names_unstack(call, members):
    with pytest.raises(ValueError, match=rf"of size {members}, as in a stack.*l0func\.unstack"):
        WANT_ONE[call](stacked(PARAMS, members), stacked(GATES, members))


@pytest.mark.parametrize("call", OF_GATES)
def test_a_stack_of_gates_names_unstack(call):
    with pytest.raises(ValueError, match=r"Every tensor in gates.*l0func\.unstack\(gates\)"):
        OF_GATES[call](stacked(GATES))


def test_the_members_are_what_the_call_wants():
    for p, g in zip(l0.unstack(stacked(PARAMS)), l0.unstack(stacked(GATES)), strict=True):
        for name, call in WANT_ONE.items():
            assert call(p, g) is not None, name


OTHERS = {
    "one tensor only": lambda p: {**p, "0.weight": torch.zeros(2, 8, 6)},
    "other member counts": lambda p: {**stacked(p), "2.bias": torch.zeros(2, 3)},
    "other sizes": lambda p: {path: torch.zeros(2, 5, *t.shape[1:]) for path, t in p.items()},
    "more dimensions": lambda p: {path: t.expand(2, 2, *t.shape) for path, t in p.items()},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_shapes_are_no_stack(kind):
    with pytest.raises(ValueError, match="different architectures"):
        l0.prune(OTHERS[kind](PARAMS), GATES, SPEC)
    with pytest.raises(ValueError, match="other sizes call make_functional"):
        FN(OTHERS[kind](PARAMS), BUFFERS, X)
