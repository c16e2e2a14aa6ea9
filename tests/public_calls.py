"""A call of every public function, on values that all calls share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from loads import training_of
from test_slopes import GATES as HIDDEN
from test_slopes import SPEC as TIMED
from test_slopes import LogisticGate, table
from torch import Tensor, nn

import l0func as l0
from l0func import distributions, plot, random, schedules

KEY = random.key(7)
X = random.normal(random.key(8), (6, 4))
TRAINING, FIRST, TRAINED = training_of()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.3), nn.Linear(3, 2)]
        return nn.Sequential(*layers)


NET = network().eval()
FN, PARAMS, BUFFERS = l0.make_functional(NET)
UNITS = l0.unit_groups(NET, X)
SPEC = l0.gate_spec(PARAMS, {"*.weight": l0.element()}, groups=UNITS, buffers=BUFFERS)
SMALLER = l0.gate_spec(PARAMS, groups=UNITS, buffers=BUFFERS)
LAWS = (l0.HardConcrete(), l0.HardKuma(), l0.GaussianGate(), l0.BernoulliGate())
COINS = l0.gate_spec(PARAMS, {"*.weight": l0.element()}, distribution=l0.BernoulliGate())
GATES = l0.init_gates(KEY, SPEC)
CLOSED = {"0": torch.tensor([4.0, -9.0, 3.0])}
APPLY = l0.gated(FN, SPEC)
ROWS = l0.per_example(APPLY)
KEYS = random.split(KEY, len(X))
TABLE = table()
SUMMARY = l0.summary(PARAMS, GATES, SPEC)
CONTROL = l0.lagrangian(SPEC, 0.4)
LEAST = CONTROL.init(GATES)


def with_gradients(call: Any, *args: Any) -> Any:
    """A call's outputs, and the gradients for params and gates."""
    outputs: list[Tensor] = []

    def loss(params: Any, gates: Any) -> Tensor:
        outputs.append(call(params, gates, BUFFERS, *args))
        return outputs[0].square().sum()

    leaves = [
        {path: t.detach().requires_grad_() for path, t in d.items()} for d in (PARAMS, GATES)
    ]
    value = loss(*leaves)
    every = [t for d in leaves for t in d.values()]
    grads = torch.autograd.grad(value, every, allow_unused=True)
    return outputs[0], grads


def expectations(law: l0.GateDistribution) -> Any:
    at = torch.linspace(-3, 3, 7)
    moments = [law.prob_nonzero(at), law.prob_one(at), law.mean(at), law.second_moment(at)]
    fixed = [law.deterministic(at, each) for each in ("louizos", "median", "mean")]
    again = distributions.from_dict(law.to_dict())
    return law.sample(KEY, at), law.cdf(0.3, at), law.init(0.2), moments, fixed, again == law


def of_coins(folder: Path) -> Any:
    gates = {path: torch.zeros_like(t) for path, t in l0.init_gates(KEY, COINS).items()}
    run = l0.arm(lambda p, b: sum(t.square().sum() for t in p.values()), COINS)
    leaves = {path: t.requires_grad_() for path, t in gates.items()}
    run(PARAMS, leaves, {}, KEY).backward()
    return [t.grad for t in leaves.values()]


def own_law(folder: Path) -> Any:
    law = LogisticGate()
    at = torch.linspace(-1, 1, 5)
    return law.sample(KEY, at), law.prob_nonzero(at), law.mean(at), law.variance(at)


def wrapped(folder: Path) -> Any:
    net = l0.L0Module(NET, 1e-3, seed=3, per_example=True).train()
    first, second = net(X), net(X)
    (second.square().sum() + net.regularization()).backward()
    return first, second, [p.grad for p in net.parameters()], net.count_l0(), str(net.summary())


def trained(folder: Path) -> Any:
    state = FIRST
    for number in range(3):
        state, loss = TRAINING.step(state, X[:4, :3] * number)
    return state, loss


def stepped(folder: Path) -> Any:
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    clip = l0.clip_norm(0.5)
    weights, gates = clip(PARAMS, GATES)
    return adam.update(weights, adam.init(PARAMS), PARAMS, torch.tensor(0)), gates


def controlled(folder: Path) -> Any:
    gates = {name: t - 3 for name, t in GATES.items()}
    later = CONTROL.update(LEAST, gates)
    return later, CONTROL.penalty(later, gates), CONTROL.hold(later, gates)


def saved(folder: Path) -> Any:
    path = folder / "net"
    l0.save(path, PARAMS, GATES, BUFFERS, SPEC)
    found = l0.load(path)
    l0.save_state(folder / "state", FIRST, TRAINED)
    state = l0.load_state(folder / "state", FIRST, TRAINED)
    return found.params, found.gates, found.spec == SPEC, state


def saved_shards(folder: Path) -> Any:
    l0.save_shards(folder / "shards", FIRST, TRAINED)
    return l0.load_shards(folder / "shards", FIRST, TRAINED)


def smaller_network(folder: Path) -> Any:
    fitted = l0.refit(FN, PARAMS, CLOSED, BUFFERS, SMALLER, X)
    module = l0.to_module(*l0.compact(FN, fitted, CLOSED, BUFFERS, SMALLER)).eval()
    again = l0.resize_to(network(), module.state_dict()).eval()
    return module(X), again(X), l0.unit_groups(NET, X).keys()


def priced(folder: Path) -> Any:
    found = [l0.expected_l0(GATES, SPEC), l0.expected_l2(PARAMS, GATES, SPEC)]
    found += [l0.expected_sparsity(GATES, SPEC), l0.squared_mean(PARAMS, GATES, SPEC)]
    found += [l0.penalty(PARAMS, GATES, SPEC, 0.1, weight_decay=0.1)]
    counts = l0.count_macs(FN, PARAMS, BUFFERS, X)
    found += [l0.expected_macs(GATES, SPEC, counts), l0.realised_macs(GATES, SPEC, counts)]
    return found, counts.total, str(l0.summary(PARAMS, GATES, SPEC))


def masked(folder: Path) -> Any:
    masks = l0.sample_masks(KEY, GATES, SPEC)
    fixed = [l0.deterministic_masks(GATES, SPEC, each) for each in ("louizos", "count")]
    means, pruned = l0.mean_masks(GATES, SPEC), l0.prune(PARAMS, GATES, SPEC)
    sparse = l0.to_sparse_csr({"w": pruned["4.weight"]})["w"].to_dense()
    placed = l0.place_gates(SPEC, PARAMS, l0.gather(GATES))
    return masks, fixed, means, l0.apply_masks(PARAMS, masks), sparse, placed


def planned(folder: Path) -> Any:
    rules = {"0.weight": l0.axis(0), "0.bias": l0.blocks(0, 3), "4.weight": l0.axes(0, 1)}
    cut = l0.group({"4.weight": l0.tiles(0, 2), "4.bias": l0.whole()})
    spec = l0.gate_spec(PARAMS, rules, distribution=l0.HardKuma())
    other = l0.gate_spec(PARAMS, {"1.weight": l0.element()}, groups={"cut": cut})
    gates = l0.init_gates(KEY, spec, droprate=0.4)
    again = l0.GateSpec.from_json(spec.to_json()) == spec
    return gates, again, other.to_json(), l0.compensate(PARAMS, gates, spec)


def run_once(folder: Path) -> Any:
    l0.use_kernel("auto")
    fn, params, buffers = l0.make_functional(NET)
    drawn = l0.init_params(KEY, params, {"0.weight": "xavier_normal_", "*": "zeros_"})
    ran = with_gradients(APPLY, KEY, X), with_gradients(ROWS, KEYS, X)
    return l0.kernel_in_use("cpu"), drawn, fn(params, buffers, X), ran


def timed(folder: Path) -> Any:
    text = TABLE.to_json()
    again = l0.LatencyTable.from_json(text)
    return l0.expected_ms(HIDDEN, TIMED, again), l0.realised_ms(HIDDEN, TIMED, again), text


def stacked(folder: Path) -> Any:
    members = l0.stack([PARAMS, l0.prune(PARAMS, GATES, SPEC)])
    return members, l0.unstack(members), l0.diverged({"w": torch.tensor([1.0, torch.nan])})


def streams(folder: Path) -> Any:
    key = random.fold_in(random.key(2**40), 5)
    keys = random.split(random.fold_in(key, torch.tensor(3)), 4)
    rows = random.row_keys(key, torch.arange(5))
    return keys, rows, random.uniform(key, (70, 3)), random.normal(key, (5,))


def scheduled(folder: Path) -> Any:
    line, wave = schedules.linear(1.0, 0.1, 5), schedules.cosine(1.0, 0.0, 5)
    steps = schedules.pieces({0: 1.0, 3: 0.1})
    kind = torch.optim.lr_scheduler.StepLR
    torchs = schedules.from_torch(kind, 0.1, 9, step_size=2)
    every = (line, wave, steps, torchs, schedules.repeated(wave, 5))
    return [schedule(torch.arange(9)) for schedule in every]


def laws(folder: Path) -> Any:
    return [expectations(distributions.register(type(law))()) for law in LAWS]


def drawn_plots(folder: Path) -> Any:
    # Without pyplot, whose figures are the process's own.
    figure = import_module("matplotlib.figure").Figure()
    ax = figure.subplots(5)
    plot.density(SUMMARY, ax[0])
    plot.open_probability(GATES, SPEC, ax[1])
    plot.trajectories([0, 1], [torch.tensor([0.9, 0.9]), torch.tensor([0.9, 0.1])], ax[2])
    plot.widths({"a": 4}, {"a": 2}, ax[3])
    plot.tradeoff({"lam": [(0.5, 98.0), (0.1, 97.0)]}, ax[4])
    shown = plot.filters(torch.ones(4, 1, 3, 3), figure.add_subplot())
    lines = [line.get_xydata().tolist() for each in ax for line in each.lines]
    return lines, [str(patch) for each in ax for patch in each.patches], len(shown.images)


CALLS: dict[Callable[[Path], Any], str] = {
    masked: (
        "sample_masks deterministic_masks mean_masks prune apply_masks to_sparse_csr place_gates "
        "gather"
    ),
    planned: (
        "axis blocks axes group tiles whole gate_spec HardKuma element init_gates GateSpec "
        "compensate"
    ),
    run_once: "use_kernel kernel_in_use make_functional init_params gated per_example",
    timed: "LatencyTable expected_ms realised_ms",
    stacked: "stack unstack diverged",
    streams: "random.key random.fold_in random.split random.row_keys random.uniform random.normal",
    scheduled: (
        "schedules schedules.linear schedules.cosine schedules.pieces schedules.from_torch "
        "schedules.repeated"
    ),
    laws: (
        "HardConcrete GaussianGate BernoulliGate GateDistribution distributions.register "
        "distributions.from_dict"
    ),
    of_coins: "arm",
    wrapped: "L0Module",
    trained: "training Training TrainState Lagrangian LagrangianState",
    stepped: "optimizer Optimizer clip_norm",
    controlled: "lagrangian",
    saved: "save load save_state load_state",
    saved_shards: "save_shards load_shards",
    smaller_network: "refit to_module compact resize_to unit_groups UnitGroups",
    priced: (
        "expected_l0 expected_l2 expected_sparsity squared_mean penalty count_macs MacCounts "
        "expected_macs realised_macs summary"
    ),
    own_law: "CustomGate",
    drawn_plots: (
        "plot plot.density plot.open_probability plot.trajectories plot.widths plot.tradeoff "
        "plot.filters"
    ),
}
"""For each call the public names that it uses."""

NOT_AT_ONCE = {
    "a type": "Tree",
    "it measures time, and needs the machine for itself": "latency_table",
    "collectives, which every process calls in one order": "all_reduce_mean check_agreement",
}
"""Why other public names are not called by many threads."""
