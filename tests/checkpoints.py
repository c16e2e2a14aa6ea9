"""The ways in which people run a block of a network again in the backward pass."""

from __future__ import annotations

from functools import partial

import torch
from device import seeded_generator
from torch import nn
from torch.nn import functional as F
from torch.utils import checkpoint as torch_checkpoint
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import l0func as l0

SHOWS_BACKWARD = "has_torch_function" in torch.autograd.backward.__code__.co_names
"""Whether torch shows a backward pass to a mode, as 2.11 does and 2.9 does not."""


def maps_blocks() -> bool:
    """Whether torch maps a checkpoint that nothing differentiates; 2.9 and 2.11 do not."""
    block = partial(checkpoint, torch.sin, use_reentrant=False)
    try:
        torch.vmap(block)(torch.ones(2, 3))
    except RuntimeError:
        return False
    return True


class Recompute(torch.autograd.Function):
    """Hand-written checkpointing, as Megatron, DeepSpeed and fairscale have it."""

    @staticmethod
    def forward(ctx, run, x):
        ctx.run = run
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.run(x)
        torch.autograd.backward(y, grad)
        return None, x.grad


class RecomputeLater(torch.autograd.Function):
    """The same with ``setup_context``; its forward never sees the graph's node."""

    @staticmethod
    def forward(run, x):
        return run(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.run, x = inputs
        ctx.save_for_backward(x)

    backward = Recompute.backward


def in_helpers(function):
    def helper(*args):
        return function(*args)

    return helper


class Decorated(torch.autograd.Function):
    """The same with decorators around both passes, as ``torch.amp.custom_fwd`` is one."""

    forward = staticmethod(in_helpers(Recompute.forward))
    backward = staticmethod(in_helpers(in_helpers(Recompute.backward)))


class Reversible(torch.autograd.Function):
    """A reversible block (RevNet): backward runs g before f, in another order than forward."""

    @staticmethod
    def forward(ctx, f, g, x, y):
        y1 = x + f(y)
        y2 = y + g(y1)
        ctx.f, ctx.g = f, g
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx, d1, d2):
        y1, y2 = ctx.saved_tensors
        with torch.enable_grad():
            y1 = y1.detach().requires_grad_()
            g = ctx.g(y1)
        torch.autograd.backward(g, d2)
        y = y2 - g.detach()
        total = d1 + y1.grad
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            f = ctx.f(y)
        torch.autograd.backward(f, total)
        return None, None, total, d2 + y.grad


def plain(run, x):
    return run(x)


def without_early_stop(run, x):
    with torch_checkpoint.set_checkpoint_early_stop(False):
        return checkpoint(run, x, use_reentrant=False)


def offloaded(run, x):
    with torch.autograd.graph.save_on_cpu():
        return checkpoint(run, x, use_reentrant=False)


def selective(run, x):
    saved = [torch.ops.aten.addmm.default]
    contexts = partial(torch_checkpoint.create_selective_checkpoint_contexts, saved)
    return checkpoint(run, x, use_reentrant=False, context_fn=contexts)


def sequential(run, x):
    return checkpoint_sequential([run, nn.Dropout(0.2)], 2, x, use_reentrant=False)


def plain_sequential(run, x):
    return nn.Dropout(0.2)(run(x))


WAYS = {
    "non-reentrant": partial(checkpoint, use_reentrant=False),
    "without early stop": without_early_stop,
    "offloaded": offloaded,
    "reentrant": partial(checkpoint, use_reentrant=True),
    "by hand": Recompute.apply,
    "by hand, with setup_context": RecomputeLater.apply,
    "by hand, decorated": Decorated.apply,
}
if hasattr(torch_checkpoint, "create_selective_checkpoint_contexts"):
    WAYS["selective"] = selective


class Block(nn.Module):
    """Two layers, three calls of dropout, two of them by one module."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout(0.4)

    def forward(self, x):
        x = self.drop(torch.relu(self.a(x)))
        return self.drop(torch.tanh(self.b(x))) + F.dropout(x, 0.2, self.training)


class Blocks(nn.Module):
    """Blocks with dropout between, each run by ``way``."""

    def __init__(self, way, make=Block, count=3, shared=False):
        super().__init__()
        made = [make() for _ in range(count)]
        self.blocks = nn.ModuleList(made[:1] * count if shared else made)
        self.drop = nn.Dropout(0.3)
        self.way = way

    def forward(self, x):
        x = self.drop(x)
        for block in self.blocks:
            x = self.drop(self.way(block, x))
        return x


def backward(y):
    y.square().sum().backward()


def gradients(module, differentiate=backward, shape=(5, 8), key=3):
    """The output of a gated module, and the gradients of its input, parameters and gates."""
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    x = torch.randn(shape, generator=seeded_generator(1)).requires_grad_()
    leaves = [x]
    for tree in (params, gates):
        leaves += [tensor.requires_grad_() for tensor in tree.values()]
    y = l0.gated(fn, spec)(params, gates, buffers, l0.random.key(key), x)
    found = differentiate(y)
    grads = [leaf.grad for leaf in leaves] if found is None else found
    return [y.detach(), *grads]


def seeded(kind, *args, **named):
    torch.manual_seed(0)
    return kind(*args, **named)
