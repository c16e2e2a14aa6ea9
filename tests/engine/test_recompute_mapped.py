"""Activation checkpointing, BatchNorm and transforms: what runs again, and what is refused."""

from __future__ import annotations

from functools import partial

import checkpoints as cp
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import l0func as l0
from l0func import random

BLOCKS = ["non-reentrant", "without early stop", "offloaded"]
NAMES = {
    "reentrant": "CheckpointFunction",
    "by hand": "Recompute",
    "by hand, decorated": "Decorated",
}
FUNCTIONS = list(NAMES)
OLD = not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
X = random.normal(random.key(7), (4, 8))
KEYS = random.split(random.key(8), 4)


def prepared(way, rules=None, requires_grad=True, make=cp.Block):
    fn, params, buffers = l0.make_functional(cp.seeded(cp.Blocks, way, make))
    spec = l0.gate_spec(params, rules or {"*.weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec)
    if requires_grad:
        params = {path: p.requires_grad_() for path, p in params.items()}
    return l0.gated(fn, spec), params, gates, buffers


def gradients(loss, params):
    return torch.autograd.grad(loss, list(params.values()))


@pytest.mark.parametrize("way", BLOCKS)
def test_a_checkpoint_inside_a_row_is_refused_at_the_call(way):
    apply, *args = prepared(cp.WAYS[way])
    with pytest.raises(ValueError, match=r"put it around the call: .*checkpoint\(rows"):
        l0.per_example(apply)(*args, KEYS, X)
    with pytest.raises(ValueError, match="put it around the call"):
        torch.vmap(lambda key: apply(*args, key, X))(KEYS)


def test_a_checkpoint_of_one_operation_inside_a_row_is_refused_at_the_call():
    apply, *args = prepared(cp.WAYS["non-reentrant"], make=lambda: nn.Linear(8, 8))
    with pytest.raises(ValueError, match="put it around the call"):
        l0.per_example(apply)(*args, KEYS, X)


@pytest.mark.skipif(not cp.maps_blocks(), reason="this torch cannot map a checkpoint at all")
@pytest.mark.parametrize("way", BLOCKS)
def test_a_checkpoint_inside_a_row_runs_where_nothing_is_differentiated(way):
    apply, *args = prepared(cp.WAYS[way], requires_grad=False)
    twin, *others = prepared(cp.plain, requires_grad=False)
    wanted = l0.per_example(twin)(*others, KEYS, X)
    assert_close(l0.per_example(apply)(*args, KEYS, X), wanted)
    apply, *args = prepared(cp.WAYS[way])
    with torch.no_grad():
        assert_close(l0.per_example(apply)(*args, KEYS, X), wanted)


@pytest.mark.parametrize("way", FUNCTIONS)
def test_a_function_that_torch_cannot_map_is_refused_at_the_call(way):
    apply, *args = prepared(cp.WAYS[way])
    with pytest.raises(ValueError, match=f"^{NAMES[way]}, a .*Function without setup_context"):
        l0.per_example(apply)(*args, KEYS, X)


@pytest.mark.parametrize("way", [*BLOCKS, *FUNCTIONS])
def test_a_checkpoint_under_torch_func_grad_is_refused_at_the_call(way):
    apply, params, gates, buffers = prepared(cp.WAYS[way], requires_grad=False)

    def loss(params):
        return apply(params, gates, buffers, KEYS[0], X).sum()

    by_hand = way.startswith("by hand")
    advice = "Give it setup_context" if by_hand else "Take the checkpoint out of the module"
    with pytest.raises(ValueError, match=advice):
        torch.func.grad(loss)(params)


@pytest.mark.skipif(OLD, reason="torch 2.1 has no transform inside a checkpoint")
@pytest.mark.parametrize("rules", [None, {"*.weight": l0.axis(0)}])
def test_a_checkpoint_around_rows_draws_the_same_masks(rules):
    apply, params, gates, buffers = prepared(cp.plain, rules)
    rows = l0.per_example(apply)
    y = rows(params, gates, buffers, KEYS, X)
    for call in (
        lambda: checkpoint(rows, params, gates, buffers, KEYS, X, use_reentrant=False),
        lambda: checkpoint(
            lambda x: rows(params, gates, buffers, KEYS, x), X, use_reentrant=False
        ),
    ):
        again = call()
        assert torch.equal(again, y)
        wanted = gradients(y.square().sum(), params)
        assert_close(gradients(again.square().sum(), params), wanted)
        y = rows(params, gates, buffers, KEYS, X)


class Vjp(torch.autograd.Function):
    """Hand-written checkpointing for torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(run, x):
        return run(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.run, x = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            _, pull = torch.func.vjp(ctx.run, x)
        return None, pull(grad)[0]


def squares(apply, args, x):
    return apply(*args, KEYS[0], x).square().sum()


def test_hand_written_checkpointing_under_torch_func_grad_draws_the_same_numbers():
    found = []
    for way in (Vjp.apply, cp.plain):
        apply, *args = prepared(way, requires_grad=False)
        loss = partial(squares, apply, args)
        found.append(torch.func.grad(loss)(X))
    assert_close(*found)


class Doubled(cp.RecomputeLater):
    """Another Function with the same forward: the call stack shows no difference."""

    @staticmethod
    def backward(ctx, grad):
        return cp.RecomputeLater.backward(ctx, 2 * grad)


class InHelpers(torch.autograd.Function):
    """A forward of its own, in the same decorator as that of ``cp.Decorated``."""

    forward = staticmethod(cp.in_helpers(cp.RecomputeLater.forward))
    setup_context = cp.RecomputeLater.setup_context
    backward = cp.Recompute.backward


def doubled(run, x):
    y = run(x)
    return y + (y - y.detach())


FUNCTIONS_AND_TWINS = {
    "one, twice on one input": (
        lambda run, x: cp.RecomputeLater.apply(run, x) + cp.RecomputeLater.apply(run, x),
        lambda run, x: run(x) + run(x),
    ),
    "with one forward": (
        lambda run, x: Doubled.apply(run, cp.RecomputeLater.apply(run, x)),
        lambda run, x: doubled(run, run(x)),
    ),
    "with one decorator": (
        lambda run, x: cp.Decorated.apply(run, InHelpers.apply(run, x)),
        lambda run, x: run(run(x)),
    ),
}


@pytest.mark.skipif(not cp.SHOWS_BACKWARD, reason="torch shows no backward pass to a mode")
@pytest.mark.parametrize(("way", "twin"), FUNCTIONS_AND_TWINS.values(), ids=FUNCTIONS_AND_TWINS)
def test_two_calls_of_functions_each_draw_what_they_drew(way, twin):
    found = [cp.gradients(cp.seeded(cp.Blocks, own, count=1), cp.backward) for own in (way, twin)]
    assert torch.equal(found[0][0], found[1][0])
    assert_close(*found)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return F.dropout(self.norm(self.linear(x)), 0.3, self.training)


@pytest.mark.parametrize("way", cp.WAYS)
def test_statistics_are_updated_once_though_the_block_runs_again(way):
    found = []
    for own in (cp.WAYS[way], cp.plain):
        apply, params, gates, buffers = prepared(own, {"*linear.weight": l0.axis(0)}, make=Normed)
        before = {path: b.clone() for path, b in buffers.items()}
        y, new = apply.with_buffers(params, gates, buffers, KEYS[0], X.clone().requires_grad_())
        first = {path: b.clone() for path, b in new.items()}
        y.square().sum().backward()
        assert_close(new, first)
        assert_close(buffers, before)
        found.append((y, new, [p.grad for p in params.values()]))
    assert_close(*found)


class Rounded(torch.autograd.Function):
    """Stochastic rounding of a gradient: fresh noise in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return torch.floor(x + torch.rand_like(x))

    @staticmethod
    def backward(ctx, grad):
        return torch.floor(grad + torch.rand_like(grad))


class Straight(torch.autograd.Function):
    """Stochastic rounding with a plain gradient."""

    @staticmethod
    def forward(ctx, x):
        return torch.floor(x + torch.rand_like(x))

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_fresh_noise_in_a_backward_pass_is_refused_by_name():
    apply, *args = prepared(lambda run, x: Rounded.apply(run(x)))
    y = apply(*args, KEYS[0], X)
    with pytest.raises(ValueError, match=r"'rand_like' draws in the backward pass of Rounded"):
        y.sum().backward()


def test_a_function_that_draws_in_its_forward_alone_is_fine():
    apply, params, gates, buffers = prepared(lambda run, x: Straight.apply(run(x)))
    y = apply(params, gates, buffers, KEYS[0], X)
    assert torch.equal(y, apply(params, gates, buffers, KEYS[0], X))
    y.sum().backward()
    assert all(p.grad is not None for p in params.values())


def test_a_plain_call_refuses_a_draw_in_a_backward_pass():
    class Noisy(nn.Module):
        def forward(self, x):
            return NoisyGradient.apply(x)

    fn, params, buffers = l0.make_functional(Noisy())
    y = fn(params, buffers, X.clone().requires_grad_())
    with pytest.raises(ValueError, match="there is no key to draw from"):
        y.sum().backward()


class NoisyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad + torch.randn_like(grad)
