"""Which units stay: scores of heads and feed-forward units, and gates that start from them."""

from __future__ import annotations

from functools import partial

import torch
from minilm_encoder import Network, Tensors
from minilm_surgeon import RIDGE, surgeon_order
from torch import Tensor, nn

import l0func as l0

FAR = 20.0  # a location this far out is open, or closed, for good
METHODS = ("gates", "surgeon", "magnitude", "random")


def plan(network: Network, tokens: Tensors) -> l0.GateSpec:
    """A gate for every attention head and every feed-forward unit."""
    groups = l0.unit_groups(network.module(), tokens)
    return l0.gate_spec(network.params, groups=groups, buffers=network.buffers)


def multiplied(network: Network, spec: l0.GateSpec, gates: Tensors) -> Tensors:
    """Parameters times gate values, differentiable in the values."""
    params = dict(network.params)
    for one in spec.parameters:
        if one.multiplied:
            params[one.path] = params[one.path] * one.spread(gates, owned=False)
    return params


def ones(network: Network, spec: l0.GateSpec) -> Tensors:
    like = next(iter(network.params.values()))
    return {g.name: like.new_ones(g.shape).requires_grad_() for g in spec.gates}


def magnitudes(network: Network, spec: l0.GateSpec) -> Tensors:
    """For every unit the sum of squares of the weights that read it."""
    z = ones(network, spec)
    weights = multiplied(network, spec, z)
    read = [weights[p.path].square().sum() for p in spec.parameters if p.multiplied]
    # The derivative of (z w)² in z is 2 w² at z = 1.
    found = torch.autograd.grad(torch.stack(read).sum() / 2, list(z.values()))
    return dict(zip(z, found, strict=True))


def surgeon_places(network: Network, spec: l0.GateSpec, tokens: Tensors) -> Tensors:
    """For every unit its place in the order of the optimal brain surgeon, 0 goes first.

    In rounds, the units that the readers of the others can best replace go from each group.
    """
    module, found = network.module(), {}
    inputs: Tensors = {}
    for one in spec.parameters:
        if one.multiplied:
            reader = module.get_submodule(one.path.removesuffix(".weight"))
            reader.register_forward_pre_hook(partial(_remember, inputs, one.path))
    with torch.no_grad():
        module(**tokens)
    for one in spec.parameters:
        if one.multiplied:
            (name,) = {binding.gate for binding in one.bindings if binding.multiplies}
            rows = inputs[one.path][tokens["attention_mask"] > 0].double()
            size = next(gate.size for gate in spec.gates if gate.name == name)
            found[name] = surgeon_order(rows, network.params[one.path].double(), size)
    return found


def _remember(inputs: Tensors, path: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
    inputs[path] = given[0]


def chance(spec: l0.GateSpec, key: Tensor) -> Tensors:
    found: Tensors = {}
    for gate in spec.gates:
        found[gate.name] = l0.random.uniform(l0.random.fold_in(key, gate.stream), gate.shape)
    return found


def best(scores: Tensors, share: float) -> Tensors:
    """Fixed gates, with the best share of each group open."""
    gates: Tensors = {}
    for name, score in scores.items():
        gate = torch.full_like(score, -FAR)
        gate[score.topk(round(share * len(score))).indices] = FAR
        gates[name] = gate
    return gates


def start(places: Tensors, centre: float, spread: float) -> Tensors:
    """Gates that start open: the later a unit goes, the farther open, as a normal quantile."""
    gates: Tensors = {}
    for name, place in places.items():
        quantile = (place + 0.5) / len(place)
        gates[name] = centre + spread * torch.special.ndtri(quantile)
    return gates


def settled(gates: Tensors, spec: l0.GateSpec, counts: l0.MacCounts, share: float) -> Tensors:
    """Fixed gates: the likeliest stay open, as many as the multiply-adds allow, two at least."""
    low, high = -FAR, FAR
    for _ in range(40):
        level = (low + high) / 2
        macs = l0.realised_macs(above(gates, level), spec, counts)
        low, high = (level, high) if macs > share * counts.total else (low, level)
    return above(gates, high)


def above(gates: Tensors, level: float) -> Tensors:
    found: Tensors = {}
    for name, gate in gates.items():
        second = gate.topk(2).values[1]
        found[name] = torch.where((gate > level) | (gate >= second), FAR, -FAR)
    return found


def cut(network: Network, spec: l0.GateSpec, gates: Tensors, examples: Tensors) -> Network:
    """The network without its closed units, its readers fitted again."""
    fn, params, buffers = network
    fitted = l0.refit(fn, params, gates, buffers, spec, examples, ridge=RIDGE)
    return Network(*l0.compact(fn, fitted, gates, buffers, spec))


def only(kept: Tensors, spec: l0.GateSpec) -> Tensors:
    """Fixed gates that are open for some units of each group."""
    gates: Tensors = {}
    for one in spec.gates:
        gates[one.name] = torch.full(one.shape, -FAR, device=kept[one.name].device)
        gates[one.name][kept[one.name]] = FAR
    return gates
