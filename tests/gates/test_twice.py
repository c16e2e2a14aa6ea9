"""Parameters that were pruned already are named by whoever would apply their gates again."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import l0func as l0

RULES = {
    "units": None,
    "weights": {"*.weight": l0.element()},
    "rows": {"0.weight": l0.axis(0)},
    "blocks": {"2.weight": l0.blocks(1, 2)},
}


def network(rules="units", bias=True):
    """A net whose gates are open in part, and some of them closed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias), nn.ReLU(), nn.Linear(8, 4, bias))
    fn, params, buffers = l0.make_functional(net)
    if rules == "units":
        spec = l0.gate_spec(params, groups=l0.unit_groups(net, torch.randn(6, 6)))
    else:
        spec = l0.gate_spec(params, RULES[rules])
    gates = {g.name: torch.linspace(-4, 1, g.size).reshape(g.shape) for g in spec.gates}
    return fn, params, gates, buffers, spec


def prune(fn, params, gates, buffers, spec, **settings):
    return l0.prune(params, gates, spec, **settings)


def summary(fn, params, gates, buffers, spec, **settings):
    return l0.summary(params, gates, spec, **settings)


def refit(fn, params, gates, buffers, spec, **settings):
    return l0.refit(fn, params, gates, buffers, spec, torch.randn(40, 6), **settings)


CALLS = {"prune": prune, "summary": summary, "compact": l0.compact, "refit": refit}


def told(call, *arguments, **settings):
    """The warnings of a call about parameters that were pruned already."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[call](*arguments, **settings)
    return [w for w in caught if "look pruned already" in str(w.message)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("settings", [{}, {"estimator": "count"}, {"density": 0.5}])
def test_pruned_parameters_are_named_at_the_line_of_the_user(call, rules, settings):
    fn, params, gates, buffers, spec = network(rules)
    pruned = l0.prune(params, gates, spec, **settings)
    [warning] = told(call, fn, pruned, gates, buffers, spec, **settings)
    assert warning.filename == __file__
    text = str(warning.message)
    assert text.startswith(f"{call} got parameters")
    assert "'0.weight'" in text or "'2.weight'" in text
    assert "params from before prune" in text


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("settings", [{}, {"estimator": "count"}, {"density": 0.5}])
def test_parameters_from_before_are_not(call, rules, settings):
    fn, params, gates, buffers, spec = network(rules)
    assert told(call, fn, params, gates, buffers, spec, **settings) == []


def test_a_pruned_network_that_closes_other_gates_now_is_named():
    fn, params, gates, buffers, spec = network("weights")
    pruned = l0.prune(params, gates, spec, density=0.5)
    assert told("compact", fn, pruned, gates, buffers, spec, density=0.7)


def test_one_pruned_tensor_beside_one_that_was_not_says_nothing():
    fn, params, gates, buffers, spec = network("weights")
    for path in ("0.weight", "2.weight"):
        mixed = {**params, path: l0.prune(params, gates, spec)[path]}
        assert told("prune", fn, mixed, gates, buffers, spec) == []


@pytest.mark.parametrize("call", CALLS)
def test_gates_of_0_and_1_say_nothing(call):
    fn, params, gates, buffers, spec = network()
    gates = {name: torch.where(g > -2, 9.0, -9.0) for name, g in gates.items()}
    pruned = l0.prune(params, gates, spec)
    assert told(call, fn, pruned, gates, buffers, spec) == []


@pytest.mark.parametrize("call", CALLS)
def test_without_a_closed_gate_nothing_is_known(call):
    fn, params, gates, buffers, spec = network()
    pruned = l0.prune(params, gates, spec, "mean")
    assert told(call, fn, pruned, gates, buffers, spec, estimator="mean") == []


def zero_biases():
    fn, params, _, buffers, _ = network()
    params = {path: 0 * p if path.endswith("bias") else p for path, p in params.items()}
    spec = l0.gate_spec(params, {"*.bias": l0.element(), "*": None})
    return fn, params, buffers, spec, {"0.bias": [0, 3], "2.bias": [1]}


def zero_reader():
    fn, params, _, buffers, spec = network()
    return fn, {**params, "2.weight": 0 * params["2.weight"]}, buffers, spec, {"0": [2, 5]}


def padding_row():
    fn, params, buffers = l0.make_functional(nn.Embedding(9, 4, padding_idx=0))
    return fn, params, buffers, l0.gate_spec(params), {"weight": [0, 1, 2, 3]}


def sparse_weight():
    fn, params, buffers = l0.make_functional(nn.Linear(10, 10, bias=False))
    nn.init.sparse_(params["weight"], 0.8)
    zeros = (params["weight"].flatten() == 0).nonzero().flatten().tolist()
    return fn, params, buffers, l0.gate_spec(params), {"weight": zeros[:6]}


@pytest.mark.parametrize("case", [zero_biases, zero_reader, padding_row, sparse_weight])
@pytest.mark.parametrize("call", ["prune", "summary"])
def test_zeros_that_a_network_has_by_itself_say_nothing(case, call):
    fn, params, buffers, spec, closed = case()
    gates = {gate.name: torch.zeros(gate.shape) for gate in spec.gates}
    for name, places in closed.items():
        gates[name].view(-1)[places] = -9.0
    assert told(call, fn, params, gates, buffers, spec) == []


def test_rounds_of_removal_say_nothing():
    fn, params, gates, buffers, spec = network("weights")
    for _ in range(3):
        assert told("summary", fn, params, gates, buffers, spec) == []
        assert told("compact", fn, params, gates, buffers, spec) == []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fn, params, buffers = l0.compact(fn, params, gates, buffers, spec)
        # What a round of training does: every weight moves, and the gates are new.
        params = {path: p + 0.01 * torch.randn(p.shape) for path, p in params.items()}


def test_fitted_parameters_say_nothing():
    fn, params, gates, buffers, spec = network()
    fitted = refit(fn, params, gates, buffers, spec)
    for call in CALLS:
        assert told(call, fn, fitted, gates, buffers, spec) == []


@pytest.mark.parametrize("groups", [True, False])
def test_a_module_that_was_wrapped_compacted_and_wrapped_again_says_nothing(groups):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(6, 6)
    for _ in range(2):
        found = l0.unit_groups(module, x) if groups else None
        net = l0.L0Module(module, lam=1e-3, groups=found, seed=0)
        with torch.no_grad():
            for g in net.gates().values():
                g.copy_(torch.linspace(-4, 1, g.numel()).reshape(g.shape))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net.summary()
            module = net.compacted(example_inputs=x)
        for p in module.parameters():
            p.data += 0.01 * torch.randn(p.shape)


def test_under_a_map_the_values_are_unknown_and_nothing_is_said():
    _, params, gates, _, spec = network()
    pruned = l0.stack([l0.prune(params, gates, spec)] * 2)
    stacked = l0.stack([gates] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.vmap(lambda p, g: l0.prune(p, g, spec))(pruned, stacked)
        meta = [{name: t.to("meta") for name, t in tree.items()} for tree in (params, gates)]
        assert l0.prune(*meta, spec)["0.weight"].is_meta


def test_gates_that_multiply_nothing_twice_say_nothing():
    """A gate that only owns a parameter leaves its open entries as they are."""
    params = {"kept": torch.randn(6), "owned": torch.randn(6)}
    group = l0.group({"kept": l0.axis(0)}, owns={"owned": l0.axis(0)})
    spec = l0.gate_spec(params, {"*": None}, groups={"units": group})
    gates = {"units": torch.tensor([-9.0, 9, -9, 9, 9, 9])}
    pruned = l0.prune(params, gates, spec)
    assert told("prune", None, pruned, gates, {}, spec) == []
