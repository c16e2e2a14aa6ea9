"""The public calls on another device: keys stay on the CPU, or come from there too.

``python tests/entry_points.py`` runs them on the device of pretence; with ``cuda`` on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

import pretend

import l0func as l0
from l0func.internal import tree


class Setup:
    """A network with its gates, all on one device."""

    def __init__(self, device: str, module: nn.Module, x: Tensor, rules: Any = None) -> None:
        self.module = module.to(device)
        self.fn, self.params, self.buffers = l0.make_functional(self.module)
        self.spec = l0.gate_spec(self.params, rules) if rules else l0.gate_spec(self.params)
        gates = l0.init_gates(l0.random.key(1), self.spec)
        self.gates = {name: la.to(device) for name, la in gates.items()}
        self.x, self.device = x.to(device), device

    @property
    def state(self) -> tuple[Any, Any, Any]:
        return self.params, self.gates, self.buffers


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def mlp(device: str, rules: Any = None) -> Setup:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

    return Setup(device, _seeded(make), torch.linspace(-1.0, 1.0, 24).reshape(4, 6), rules)


def cnn(device: str) -> Setup:
    def make() -> nn.Module:
        conv = nn.Conv2d(2, 4, 3)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))

    x = torch.linspace(-1.0, 1.0, 4 * 2 * 25).reshape(4, 2, 5, 5)
    return Setup(device, _seeded(make), x, {"*.weight": l0.element()})


KEY = l0.random.key(5)


def draws(device: str) -> Any:
    key = KEY.to(device)
    keys = l0.random.split(key, 3)
    folded = l0.random.fold_in(keys, torch.arange(3))
    return {
        "uniform": l0.random.uniform(keys, 5),
        "normal": l0.random.normal(folded, (2, 3)),
        "number": l0.random.fold_in(key, 7),
    }


def masks(device: str) -> Any:
    at = mlp(device)
    sampled = l0.sample_masks(KEY, at.gates, at.spec)
    fixed = {
        name: l0.deterministic_masks(at.gates, at.spec, name)
        for name in ("louizos", "median", "mean", "count")
    }
    return sampled, fixed, l0.compensate(at.params, at.gates, at.spec)


def one_mask(device: str) -> Any:
    at = mlp(device)
    apply = l0.gated(at.fn, at.spec)
    at_test_time = l0.gated(l0.make_functional(at.module.eval())[0], at.spec)
    return apply(*at.state, KEY, at.x), at_test_time(*at.state, None, at.x)


def _rows_with(at: Setup, sampling: Any = "exact", masks: int | None = None) -> Any:
    rows = l0.per_example(l0.gated(at.fn, at.spec, sampling=sampling))
    keys = l0.random.split(KEY, at.x.shape[0])
    if masks:
        keys = l0.random.split(keys, masks)
    with_slopes = {name: la.requires_grad_() for name, la in at.gates.items()}
    params = {path: p.detach().requires_grad_() for path, p in tree.leaves(at.params).items()}
    y = rows(params, with_slopes, at.buffers, keys, at.x)
    grads = torch.autograd.grad(y.square().sum(), [*with_slopes.values(), *params.values()])
    return y.detach(), grads


def rows_by_entries(device: str) -> Any:
    return _rows_with(mlp(device, {"*.weight": l0.element()}))


def rows_by_rows_and_columns(device: str) -> Any:
    rules = {"0.weight": l0.axis(0), "3.weight": l0.axis(1)}
    return _rows_with(mlp(device, rules)), _rows_with(mlp(device, rules), masks=2)


def rows_by_sums(device: str) -> Any:
    return _rows_with(mlp(device, {"*.weight": l0.element()}), "local_reparam")


def rows_of_a_convolution(device: str) -> Any:
    return _rows_with(cnn(device)), _rows_with(cnn(device), "local_reparam")


def costs(device: str) -> Any:
    at = mlp(device)
    control = l0.lagrangian(at.spec, target=0.5)
    state = control.init(at.gates)
    counts = l0.count_macs(at.fn, at.params, at.buffers, at.x)
    l0.summary(at.params, at.gates, at.spec)
    return {
        "expected": l0.expected_l0(at.gates, at.spec),
        "penalty": l0.penalty(at.params, at.gates, at.spec, 0.1),
        "violation": control.update(state, at.gates).violation,
        "macs": l0.expected_macs(at.gates, at.spec, counts),
    }


def cuts(device: str) -> Any:
    at = mlp(device, {"*.weight": l0.element()})
    gates = {
        name: torch.linspace(-9.0, 9.0, la.numel(), device=device).reshape(la.shape)
        for name, la in at.gates.items()
    }
    pruned = l0.prune(at.params, gates, at.spec)
    by_density = l0.prune(at.params, gates, at.spec, density=0.5)
    groups = l0.unit_groups(at.module.eval(), at.x)
    fn, params, buffers = l0.make_functional(at.module.eval())
    spec = l0.gate_spec(params, groups=groups)
    few = {g.name: torch.linspace(-9.0, 9.0, g.size, device=device) for g in spec.gates}
    small = l0.compact(fn, params, few, buffers, spec, example_inputs=at.x)
    return pruned, by_density, small.fn(small.params, small.buffers, at.x)


def training(device: str) -> Any:
    at = mlp(device, {"*.weight": l0.element()})
    target = torch.tensor([0, 1, 2, 0], device=device)
    apply = l0.per_example(l0.gated(at.fn, at.spec))

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Tensor:
        y = apply(params, gates, buffers, l0.random.split(key, x.shape[0]), x)
        return F.cross_entropy(y, target) + l0.penalty(params, gates, at.spec, 0.01)

    module = l0.L0Module(at.module, 0.01, seed=3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        own = F.cross_entropy(module(at.x), target) + module.regularization()
        own.backward()
        optimizer.step()
    return own.detach(), loss(at.params, at.gates, at.buffers, KEY, at.x)


def resumed(device: str) -> Any:
    at = mlp(device, {"*.weight": l0.element()})

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Tensor:
        return l0.gated(at.fn, at.spec)(params, gates, buffers, key, x).square().mean()

    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    init, step = l0.training(loss, adam, adam)
    first = init(KEY.to(device), at.params, at.gates, at.buffers)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        l0.save_state(path, step(first, at.x)[0], at.spec)
        later = l0.load_state(path, first, at.spec)
    last, _ = step(later, at.x)
    return last.params, last.gates


class Decaying(torch.optim.SGD):
    """Its moments begin in its first step: a sum of gradients for each leaf, and a factor."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p] or {"history": torch.zeros_like(p), "factor": 1.0}
                state["factor"] *= 0.9
                state["history"] += p.grad
                p -= group["lr"] * state["factor"] * state["history"]
                self.state[p] = state


def resumed_from_before_the_first_step(device: str) -> Any:
    def loss(params: Any, gates: Any, buffers: Any, key: Tensor) -> Tensor:
        return (params["w"] * params["scale"] * gates["w"] - 1).square().sum()

    params = {"w": torch.ones(3, device=device), "scale": torch.tensor(0.5, device=device)}
    spec = l0.gate_spec(params, {"w": l0.element()})
    gates = {"w": torch.linspace(0.0, 1.0, 3, device=device)}
    own = l0.optimizer(Decaying, lr=0.1)
    init, step = l0.training(loss, own, own)
    first = init(KEY.to(device), params, gates, {})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        l0.save_state(path, step(first)[0], spec)
        later = l0.load_state(path, first, spec)
    last, _ = step(later)
    return last.params, last.gates


def own_law(device: str) -> Any:
    """A law whose constants lie on the default device."""

    @dataclass(frozen=True)
    class Logistic(l0.CustomGate):
        def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
            return torch.tensor(0.5, dtype=u.dtype) + log_alpha + 0.3 * torch.logit(u)

        def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
            middle = torch.tensor(0.5, dtype=log_alpha.dtype)
            return torch.sigmoid((middle + log_alpha - t) / 0.3)

    with torch.device(device):
        law = Logistic()
        log_alpha = torch.linspace(-2.0, 2.0, 5)
        return (
            law.prob_nonzero(log_alpha),
            law.sample(KEY.to(device), log_alpha),
            law.mean(log_alpha),
        )


class UpToLengths(nn.Module):
    """It reads the lengths of its rows, which lie on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        inside = steps[None, :] < lengths.to(x.device)[:, None]
        h = self.inner(x[:, : int(lengths.max())]).relu()
        return self.out((h * inside[:, : h.shape[1], None]).sum(1))


def units_beside_lengths(device: str) -> Any:
    net = _seeded(UpToLengths).to(device)
    x = torch.linspace(-1.0, 1.0, 72, device=device).reshape(3, 4, 6)
    lengths = torch.tensor([1, 3, 2])
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, x, lengths))
    gates = {g.name: torch.linspace(-9.0, 9.0, g.size, device=device) for g in spec.gates}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=(x, lengths))
    return small.params, small.fn(small.params, small.buffers, x, lengths)


CALLS = [
    draws,
    masks,
    one_mask,
    rows_by_entries,
    rows_by_rows_and_columns,
    rows_by_sums,
    rows_of_a_convolution,
    costs,
    cuts,
    training,
    resumed,
    resumed_from_before_the_first_step,
    own_law,
    units_beside_lengths,
]


def check(call: Callable[[str], Any], device: str) -> None:
    """The results lie on the device and equal those on the CPU."""
    found, wanted = tree.leaves({"r": call(device)}, "r"), tree.leaves({"r": call("cpu")}, "r")
    assert found.keys() == wanted.keys()
    for path, result in found.items():
        assert result.device.type == device, f"{path} is on {result.device}"
        torch.testing.assert_close(result.cpu(), wanted[path], rtol=1e-4, atol=1e-5)


def main(device: str, names: list[str]) -> None:
    if device == pretend.NAME:
        pretend.start()
    l0.use_kernel("eager" if device == pretend.NAME else "auto")
    for call in CALLS:
        if not names or call.__name__ in names:
            check(call, device)
            print("ok", call.__name__.replace("_", " "), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else pretend.NAME, sys.argv[2:])
