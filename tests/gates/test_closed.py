"""A parameter without an open gate is named by whoever shows or cuts the network."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import l0func as l0

CLOSED, OPEN = -20.0, 5.0


def parts(rules=None, **groups):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    )
    return fn, params, buffers, l0.gate_spec(params, rules, **groups)


def at(spec, closed):
    values = {gate.name: CLOSED if gate.name in closed else OPEN for gate in spec.gates}
    return {gate.name: torch.full(gate.shape, values[gate.name]) for gate in spec.gates}


def pruned(fn, params, gates, buffers, spec, **settings):
    l0.prune(params, gates, spec, **settings)


def compacted(fn, params, gates, buffers, spec, **settings):
    l0.compact(fn, params, gates, buffers, spec, **settings)


def shown(fn, params, gates, buffers, spec, **settings):
    l0.summary(params, gates, spec, **settings)


CALLS = [pruned, compacted, shown]


def silent(call, *network, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(*network, **settings)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("estimator", ["louizos", "median"])
def test_closed_parameters_are_named_together_at_the_line_of_the_user(call, estimator):
    fn, params, buffers, spec = parts({"*.weight": l0.element(), "0.bias": l0.element()})
    gates = at(spec, {"0.weight", "2.weight"})
    with pytest.warns(UserWarning, match=r"'0\.weight', '2\.weight' are closed") as caught:
        call(fn, params, gates, buffers, spec, estimator=estimator)
    assert [w.filename for w in caught] == [__file__]
    assert "smaller lam" in str(caught[0].message)


@pytest.mark.parametrize("call", CALLS)
def test_one_open_gate_is_enough(call):
    fn, params, buffers, spec = parts({"*.weight": l0.element()})
    gates = at(spec, {"0.weight", "2.weight"})
    for log_alpha in gates.values():
        log_alpha[1, 2] = OPEN
    silent(call, fn, params, gates, buffers, spec)


@pytest.mark.parametrize("call", CALLS)
def test_a_gate_that_removes_a_whole_parameter_may_close(call):
    fn, params, buffers, spec = parts({"2.weight": l0.whole()})
    silent(call, fn, params, at(spec, {"2.weight"}), buffers, spec)


@pytest.mark.parametrize("call", CALLS)
def test_mean_gates_never_close(call):
    fn, params, buffers, spec = parts({"*.weight": l0.element()})
    gates = at(spec, {"0.weight"})
    silent(call, fn, params, gates, buffers, spec, estimator="mean")


@pytest.mark.parametrize("call", [pruned, shown])
def test_gates_that_meet_may_close_a_parameter_that_neither_closes(call):
    fn, params, buffers, spec = parts({"0.weight": [l0.axis(0), l0.axis(1)]})
    rows, columns = (gate.name for gate in spec.gates)
    gates = {rows: torch.full((4,), CLOSED), columns: torch.full((3,), OPEN)}
    with pytest.warns(UserWarning, match=r"'0\.weight' are closed"):
        call(fn, params, gates, buffers, spec)


def test_an_empty_group_that_the_user_keeps_as_a_constant_is_no_surprise():
    hidden = l0.group(
        {"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "0.bias": l0.axis(0)}
    )
    fn, params, buffers, spec = parts(groups={"hidden": hidden})
    gates = at(spec, {"hidden"})
    silent(compacted, fn, params, gates, buffers, spec, empty="constant")
    with pytest.raises(ValueError, match="All 4 units"):
        silent(compacted, fn, params, gates, buffers, spec)
    with pytest.warns(UserWarning, match=r"'0\.weight', '0\.bias', '2\.weight' are closed"):
        shown(fn, params, gates, buffers, spec)


@pytest.mark.parametrize("call", CALLS)
def test_what_a_density_was_asked_to_close_is_no_surprise(call):
    fn, params, buffers, spec = parts({"*.weight": l0.element()})
    gates = at(spec, {"0.weight"})
    network = (fn, params, gates, buffers, spec)
    silent(call, *network, density=0.0)
    silent(call, *network, density={"0.*": 0.0, "2.*": 0.5})
    with pytest.warns(UserWarning, match=r"'0\.weight' are closed at density 0\.2"):
        call(*network, density=0.2)


def test_under_vmap_the_values_are_unknown_and_nothing_is_said():
    _, params, _, spec = parts({"*.weight": l0.element()})
    gates = {name: torch.stack([g, g]) for name, g in at(spec, {"0.weight"}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.vmap(lambda g: l0.prune(params, g, spec))(gates)


def test_the_module_says_so_too():
    module = l0.L0Module(nn.Linear(3, 4), lam=1.0, seed=0)
    with torch.no_grad():
        module.log_alpha["weight"].fill_(CLOSED)
    for call in (module.summary, module.compacted):
        with pytest.warns(UserWarning, match=r"'weight' are closed"):
            call()
