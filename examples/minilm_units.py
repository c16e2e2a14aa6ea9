"""Which units stay: scores of heads and feed-forward units, and gates that start from them."""

from __future__ import annotations

from functools import partial

import torch
from minilm_encoder import Network, Tensors
from torch import Tensor, nn

import l0func as l0

FAR = 20.0  # a location this far out is open, or closed, for good
METHODS = ("gates", "surgeon", "magnitude", "random")
RIDGE = 0.03


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


def surgeon_order(rows: Tensor, weight: Tensor, units: int, rounds: int = 16) -> Tensor:
    """The order of one group; ``rows`` are inputs of the layer that reads it."""
    covariance = rows.T.cov()
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(rows)
    wanted = weight @ covariance
    columns = torch.arange(len(covariance), device=rows.device).reshape(units, -1)
    alive, place = torch.arange(units, device=rows.device), torch.zeros(units).to(rows)
    gone = 0
    while len(alive):
        kept = columns[alive].flatten()
        inverse = torch.linalg.inv(covariance[kept][:, kept])
        fitted = (wanted[:, kept] @ inverse).reshape(len(weight), len(alive), -1)
        blocks = inverse.reshape(len(alive), columns.shape[1], len(alive), columns.shape[1])
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        by_unit = fitted.permute(1, 2, 0)
        error = (by_unit * torch.linalg.solve(own, by_unit)).sum((1, 2))
        order = error.argsort()
        count = max(1, units // rounds)
        place[alive[order[:count]]] = gone + torch.arange(len(order[:count])).to(rows)
        gone, alive = gone + count, alive[order[count:]]
    return place.float()


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


def settled(gates: Tensors, spec: l0.GateSpec) -> Tensors:
    """Fixed gates: those that are open under the test-time estimator, and the others."""
    found: Tensors = {}
    for gate in spec.gates:
        is_open = gate.distribution.deterministic(gates[gate.name], "louizos") != 0
        found[gate.name] = torch.where(is_open, FAR, -FAR)
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
