"""Activation checkpointing under a key: the backward pass draws what the forward pass drew."""

from __future__ import annotations

import gc
import itertools
import re
import threading
import weakref

import checkpoints as cp
import pytest
import torch
from device import DEVICE, seeded_generator
from sampled import one_in, sampled
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import l0func as l0

PAIRS = list(itertools.permutations(cp.WAYS, 2))
FUNCTIONS = re.compile("reentrant|by hand")
REENTRANT_NEEDS_GRAD = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


def nested(outer, inner):
    """One way inside another, with dropout around."""

    def way(run, x):
        return outer(lambda x: F.dropout(inner(run, F.dropout(x, 0.3)), 0.3), x)

    return way


MODES = _get_current_function_mode_stack()
"""A default device is a mode of torch."""


def compare(way, twin=cp.plain, differentiate=cp.backward, **named):
    """Equal outputs and gradients by a way of checkpointing and by its twin without."""
    got = cp.gradients(cp.seeded(cp.Blocks, way, **named), differentiate)
    wanted = cp.gradients(cp.seeded(cp.Blocks, twin, **named), differentiate)
    assert torch.equal(got[0], wanted[0])
    assert_close(got, wanted)
    assert _get_current_function_mode_stack() == MODES


@pytest.mark.parametrize("way", cp.WAYS)
def test_a_block_that_runs_again_draws_the_same_numbers(way):
    compare(cp.WAYS[way])


@REENTRANT_NEEDS_GRAD
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_a_checkpoint_inside_a_checkpoint_draws_the_same_numbers(outer, inner):
    ways = nested(cp.WAYS[outer], cp.WAYS[inner])
    compare(ways, nested(cp.plain, cp.plain), count=2)


def test_checkpoint_sequential_draws_the_same_numbers():
    compare(cp.sequential, cp.plain_sequential)


def twice(y):
    loss = y.square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def in_a_thread(y):
    thread = threading.Thread(target=cp.backward, args=(y,))
    thread.start()
    thread.join()


def in_two_graphs(y):
    a, b = y.sin().sum(), y.square().sum()
    a.backward(retain_graph=True)
    b.backward()


@pytest.mark.parametrize("differentiate", [twice, in_a_thread, in_two_graphs])
@pytest.mark.parametrize("way", cp.WAYS)
def test_any_backward_pass_draws_the_same_numbers(way, differentiate):
    if way == "selective" and differentiate is not in_a_thread:
        with pytest.raises(RuntimeError, match="backward an extra time"):
            compare(cp.WAYS[way], differentiate=differentiate)
    elif not cp.SHOWS_BACKWARD and FUNCTIONS.match(way) and differentiate is not in_a_thread:
        with pytest.raises(ValueError, match="use_reentrant=False"):
            compare(cp.WAYS[way], differentiate=differentiate)
    else:
        compare(cp.WAYS[way], differentiate=differentiate)


def second_derivative(y):
    leaves = [t for t in graph_leaves(y) if t.requires_grad]
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True)


def graph_leaves(y):
    found, waiting, seen = [], [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return sorted(found, key=lambda t: (t.shape, float(t.detach().sum())))


@pytest.mark.parametrize("way", ["non-reentrant", "without early stop"])
def test_double_backward_draws_the_same_numbers(way):
    compare(cp.WAYS[way], differentiate=second_derivative, count=2)


class RevNet(nn.Module):
    def __init__(self, reversible):
        super().__init__()
        self.reversible = reversible
        self.f = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5))
        self.g = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5))

    def forward(self, x):
        a, b = x.chunk(2, -1)
        for _ in range(2):
            if self.reversible:
                a, b = cp.Reversible.apply(self.f, self.g, a, b)
            else:
                a = a + self.f(b)
                b = b + self.g(a)
        return torch.cat([a, b], -1)


@pytest.mark.skipif(not cp.SHOWS_BACKWARD, reason="torch shows no backward pass to a mode")
def test_a_reversible_network_draws_the_same_numbers_in_the_reverse_order():
    got = cp.gradients(cp.seeded(RevNet, True), cp.backward)
    wanted = cp.gradients(cp.seeded(RevNet, False), cp.backward)
    assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU(), nn.AlphaDropout(0.2)),
        lambda: Draws(torch.rand_like),
        lambda: Draws(lambda x: torch.randn(x.shape)),
        lambda: Draws(lambda x: torch.bernoulli(torch.sigmoid(x.detach()))),
        lambda: Draws(lambda x: F.gumbel_softmax(x)),
        lambda: Draws(lambda x: torch.empty_like(x).uniform_()),
        lambda: Draws(lambda x: x.new_empty(x.shape[0], 1).bernoulli_(0.5)),
    ],
)
@pytest.mark.parametrize("way", ["non-reentrant", "reentrant", "by hand"])
def test_any_random_function_draws_the_same_numbers(way, make):
    compare(cp.WAYS[way], make=make, count=2)


class Draws(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.linear, self.draw = nn.Linear(8, 8), draw

    def forward(self, x):
        return self.linear(x * self.draw(x)) * self.draw(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2, dropout=0.4)

    def forward(self, x):
        return self.lstm(x)[0]


def test_dropout_between_recurrent_layers_draws_the_same_numbers():
    compare(cp.WAYS["non-reentrant"], make=Recurrent)


@pytest.mark.skipif(not cp.SHOWS_BACKWARD, reason="torch shows no backward pass to a mode")
def test_reentrant_blocks_share_a_masked_weight():
    compare(cp.WAYS["reentrant"], shared=True)


@pytest.mark.skipif(cp.SHOWS_BACKWARD, reason="later versions run it")
def test_reentrant_blocks_that_share_a_masked_weight_are_refused_before_torch_211():
    with pytest.raises(ValueError, match="use_reentrant=False"):
        compare(cp.WAYS["reentrant"], shared=True)


@pytest.mark.parametrize("way", ["non-reentrant", "without early stop", "by hand"])
def test_blocks_share_a_masked_weight(way):
    if not cp.SHOWS_BACKWARD and way == "by hand":
        pytest.skip("torch shows no backward pass to a mode")
    compare(cp.WAYS[way], shared=True)


@pytest.mark.parametrize("way", cp.WAYS)
def test_a_block_in_eval_mode_runs_again_without_a_key(way):
    net = cp.seeded(cp.Blocks, cp.WAYS[way]).eval()
    fn, params, buffers = l0.make_functional(net)
    x = torch.randn(3, 8, requires_grad=True)
    params = {path: p.requires_grad_() for path, p in params.items()}
    cp.backward(fn(params, buffers, x))
    got = [x.grad, *[p.grad for p in params.values()]]
    x.grad = None
    cp.backward(net(x))
    assert_close(got, [x.grad, *[p.grad for p in net.parameters()]])


def test_a_checkpoint_around_a_gated_call_draws_the_same_numbers():
    fn, params, buffers = l0.make_functional(cp.seeded(cp.Blocks, cp.WAYS["non-reentrant"]))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    x = torch.randn(3, 8, requires_grad=True)
    apply, key = l0.gated(fn, spec), l0.random.key(1)
    torch.manual_seed(5)
    y = checkpoint(
        lambda x: F.dropout(apply(params, gates, buffers, key, F.dropout(x))),
        x,
        use_reentrant=False,
    )
    (got,) = torch.autograd.grad(y.sum(), x)
    torch.manual_seed(5)
    y = F.dropout(apply(params, gates, buffers, key, F.dropout(x)))
    (wanted,) = torch.autograd.grad(y.sum(), x)
    assert_close(got, wanted)


class Breaks(nn.Module):
    """A block that fails when it runs again."""

    def __init__(self):
        super().__init__()
        self.weight, self.runs = nn.Parameter(torch.ones(8)), []

    def forward(self, x):
        self.runs.append(0)
        x = x * self.weight
        if len(self.runs) > 1:
            raise RuntimeError("broken")
        return F.dropout(x, 0.5)


@pytest.mark.parametrize("way", cp.WAYS)
def test_no_mode_stays_when_the_backward_pass_fails(way):
    with pytest.raises(RuntimeError, match="broken"):
        cp.gradients(cp.Blocks(cp.WAYS[way], Breaks, count=1))
    assert _get_current_function_mode_stack() == MODES
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("way", sampled(cp.WAYS, one_in(3)))
def test_a_graph_is_freed_with_its_output(way):
    inputs = []

    def noted(run, x):
        inputs.append(weakref.ref(x))
        return cp.WAYS[way](run, x)

    fn, params, buffers = l0.make_functional(cp.Blocks(noted))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    x = torch.randn(3, 8, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        y = l0.gated(fn, spec)(params, gates, buffers, l0.random.key(1), x)
        # What a card offloads is not kept as it was.
        if way != "offloaded" or DEVICE != "cuda":
            assert all(noted() is not None for noted in inputs)
        del y
        assert all(noted() is None for noted in inputs)
    finally:
        gc.enable()


def test_the_global_generator_stays_where_it_was():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    x = torch.randn(3, 8, generator=seeded_generator(0)).requires_grad_()
    net = cp.Blocks(cp.WAYS["non-reentrant"], lambda: Draws(torch.rand_like), count=1)
    torch.set_rng_state(state)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    y = l0.gated(fn, spec)(params, gates, buffers, l0.random.key(1), x)
    cp.backward(y)
    assert torch.equal(torch.get_rng_state(), state)
