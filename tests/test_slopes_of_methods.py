"""Derivatives of what public objects and submodules compute, by finite differences."""

from __future__ import annotations

import inspect
import sys
from functools import cached_property
from typing import get_args

import pytest
import torch
from public_functions import functions_of_submodules
from test_slopes import (
    BUFFERS,
    DOUBLE,
    FN,
    FUNCTIONS,
    GATES,
    KEY,
    KEYS,
    LAWS,
    PARAMS,
    ROWS,
    SPEC,
    leaves,
    of_both,
    of_gates,
    of_params,
    table,
    total,
)
from test_slopes import X as INPUTS
from torch import nn
from torch.func import functional_call

import l0func as l0
from l0func.distributions import DISTRIBUTIONS

pytestmark = pytest.mark.on_cpu
APPLY = l0.gated(FN, SPEC)
LOCAL = l0.per_example(l0.gated(FN, SPEC, sampling="local_reparam"))
MASKS = l0.sample_masks(KEY, GATES, SPEC)
CONTROL = l0.lagrangian(SPEC, 0.3)
PRICED = CONTROL.init(GATES)._replace(multiplier=torch.tensor([0.7], dtype=DOUBLE))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def wrapped():
    return l0.L0Module(nn.Linear(2, 3).double(), 0.1, weight_decay=0.1, seed=0)


def of_module(method, make=wrapped):
    """A module's method as a function of its parameters; it draws the same at every call."""
    net = seeded(make).eval()
    named = dict(net.named_parameters())
    chosen = Method(net, method)

    def call(*tensors):
        params = {f"net.{name}": t for name, t in zip(named, tensors, strict=True)}
        return total(functional_call(chosen, params, ()))

    return call, named


class Method(nn.Module):
    def __init__(self, net, method):
        super().__init__()
        self.net, self.method = net, method

    def forward(self):
        return self.method(self.net)


def fewer_heads():
    """Attention with one head of two, inside the layer that compaction made smaller."""
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True).eval()
    return smaller(layer, l0.random.normal(KEY, (2, 3, 4)), "self_attn")


class Read(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(2, 2, num_layers=2), nn.Linear(2, 1)

    def forward(self, x):
        return self.out(self.lstm(x)[0])


def unequal_recurrent():
    """Recurrent layers of which the first has one unit fewer."""
    return smaller(Read(), l0.random.normal(KEY, (3, 1, 2)), "lstm")


def smaller(module, x, path):
    """The part of a module at ``path``, after its first group with two gates lost one."""
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x))
    gates = {gate.name: torch.full(gate.shape, 5.0) for gate in spec.gates}
    name = next(name for name, t in gates.items() if t.shape == (2,) and path in name)
    gates[name] = torch.tensor([5.0, -9.0])
    return l0.to_module(*l0.compact(fn, params, gates, buffers, spec)).get_submodule(path)


BATCH = l0.random.normal(KEY, (3, 2)).double()
HEADS = l0.random.normal(KEY, (2, 3, 4)).double()
SEQUENCE = l0.random.normal(KEY, (3, 1, 2)).double()
WIDTHS = {"widths": torch.tensor([1.7], dtype=DOUBLE)}
# Made when they are run: some build modules.
CASES = {
    "apply_masks, of the masks": lambda: (
        lambda *ts: total(l0.apply_masks(PARAMS, dict(zip(MASKS, ts, strict=True)))),
        MASKS,
    ),
    "gated, fixed": lambda: of_both(lambda p, g: APPLY(p, g, BUFFERS, None, INPUTS)),
    "per_example, local": lambda: of_both(lambda p, g: LOCAL(p, g, BUFFERS, KEYS, INPUTS)),
    "gated, of the inputs": lambda: (
        lambda x: total(APPLY(PARAMS, GATES, BUFFERS, KEY, x)),
        {"x": INPUTS},
    ),
    "per_example, of the inputs": lambda: (
        lambda x: total(ROWS(PARAMS, GATES, BUFFERS, KEYS, x)),
        {"x": INPUTS},
    ),
    "PureModule.with_buffers": lambda: of_params(lambda p: FN.with_buffers(p, BUFFERS, INPUTS)[0]),
    "Gated.with_buffers": lambda: of_both(
        lambda p, g: APPLY.with_buffers(p, g, BUFFERS, KEY, INPUTS)[0]
    ),
    "PerExample.with_buffers": lambda: of_both(
        lambda p, g: ROWS.with_buffers(p, g, BUFFERS, KEYS, INPUTS)[0]
    ),
    "Lagrangian.penalty": lambda: of_gates(lambda g: CONTROL.penalty(PRICED, g)),
    "LatencyTable.at": lambda: (lambda widths: table().at(widths) / 10, WIDTHS),
    "L0Module.forward": lambda: of_module(lambda net: net(BATCH)),
    "L0Module.regularization": lambda: of_module(lambda net: net.regularization()),
    "L0Module.count_l0": lambda: of_module(lambda net: net.count_l0()),
    "L0Module.count_l2": lambda: of_module(lambda net: net.count_l2()),
    "smaller.FewerHeads.forward": lambda: of_module(
        lambda net: net(HEADS, HEADS, HEADS)[0], fewer_heads
    ),
    "smaller.UnequalRecurrent.forward": lambda: of_module(
        lambda net: net(SEQUENCE)[0], unequal_recurrent
    ),
}


# numba takes seconds to build it.
SLOW = {"per_example, local"}
MARKED = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]


@pytest.mark.parametrize("name", MARKED)
def test_first_and_second_derivatives_are_those_of_finite_differences(name):
    function, named = CASES[name]()
    tensors = leaves({path: t.detach() for path, t in named.items()})
    assert tensors
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True, atol=1e-4)


# Why each of the other methods has no derivatives to compare.
WITHOUT = {
    "it makes specs, tables, states, modules, keys or text": (
        "GateSpec.from_json GateSpec.gated GateSpec.to_json GateSpec.with_distribution "
        "LatencyTable.dense LatencyTable.elsewhere LatencyTable.from_json LatencyTable.only "
        "LatencyTable.to_json "
        "MacCounts.by_parameter MacCounts.only MacCounts.total TrainState.key_of "
        "UnitGroups.under L0Module.compacted L0Module.draws L0Module.extra_repr "
        "L0Module.gates L0Module.get_extra_state L0Module.key_of L0Module.place_gates "
        "L0Module.set_extra_state L0Module.state_dict L0Module.summary L0Module.train "
        "L0Module.weights PureModule.assembled PureModule.buffers_of PureModule.eval "
        "PureModule.guarding PureModule.module PureModule.parts PureModule.resized "
        "smaller.FewerHeads.extra_repr smaller.UnequalRecurrent.extra_repr "
        "smaller.Constant.extra_repr smaller.FewerHeads.merge_masks"
    ),
    "settings of rows": "L0Module.in_dims L0Module.out_dims L0Module.per_example",
    "transformers' switches": (
        "L0Module.activation_checkpointing_disable L0Module.activation_checkpointing_enable "
        "L0Module.gradient_checkpointing_disable L0Module.gradient_checkpointing_enable"
    ),
    "what __call__ runs: make_functional's case": (
        "PureModule.forward PureModule.output PureModule.run"
    ),
    "it is constant": "smaller.Constant.forward",
    "it is a step, without a graph": (
        "Lagrangian.init Lagrangian.update Lagrangian.hold Lagrangian.is_low Optimizer.init "
        "Optimizer.update Training.init Training.step"
    ),
    "words, whole numbers and pictures": (
        "random.fold_in random.key random.normal random.row_keys random.split random.uniform "
        "schedules.cosine schedules.from_torch schedules.linear schedules.pieces "
        "schedules.repeated plot.density plot.filters plot.open_probability plot.tradeoff "
        "plot.trajectories plot.widths distributions.from_dict distributions.register"
    ),
}
RULES = (l0.axes, l0.axis, l0.blocks, l0.element, l0.tiles, l0.whole)


def classes():
    """The public classes and those of public functions' results, with the names of both."""
    for name in l0.__all__:
        kind = getattr(l0, name)
        is_class = inspect.isclass(kind) and kind not in RULES
        if is_class and kind.__module__.startswith("l0func"):
            yield kind.__name__, kind
    for name in ("FewerHeads", "UnequalRecurrent", "Constant"):
        yield f"smaller.{name}", getattr(l0.smaller, name)
    for value in (FN, APPLY, ROWS):
        yield type(value).__name__, type(value)


def methods(kind):
    """The public names of a class that are called, or computed, and are l0func's own."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("l0func")]
    for name in {name for base in own for name in vars(base)}:
        value = getattr(kind, name)
        is_computed = callable(value) or isinstance(value, property | cached_property)
        if is_computed and not name.startswith("_"):
            yield name
    if not issubclass(kind, tuple):
        return
    for name, annotation in kind.__annotations__.items():
        if is_of_functions(kind, getattr(annotation, "__forward_arg__", annotation)):
            yield name


def is_of_functions(kind, text):
    """Whether a field holds functions: by its annotation, Callable or a protocol for calls."""
    named = getattr(sys.modules[kind.__module__], str(text), None)
    named = getattr(named, "__bound__", None) or named
    first = (get_args(named) or (named,))[0]
    return "Callable" in str(text) or "__call__" in getattr(first, "__dict__", {})


def test_every_method_and_every_function_of_a_submodule_has_a_case_or_a_reason():
    found = set(functions_of_submodules())
    for name, kind in classes():
        if not issubclass(kind, l0.GateDistribution):
            found |= {f"{name}.{method}" for method in methods(kind)}
    without = " ".join(WITHOUT.values()).split()
    assert len(set(without)) == len(without)
    cases = {name for name in CASES if "." in name}
    assert not cases & set(without)
    assert cases | set(without) == found


def test_every_case_is_of_a_public_name():
    names = {name.partition(",")[0] for name in CASES if "." not in name}
    assert names <= set(FUNCTIONS)


def test_every_distribution_has_its_derivatives_compared():
    compared = {type(law) for name, law in LAWS.items() if name != "CustomGate"}
    # Without those that a user has registered.
    own = vars(l0.distributions).values()
    assert compared == {kind for kind in DISTRIBUTIONS.values() if kind in own}
    assert isinstance(LAWS["CustomGate"], l0.CustomGate)
