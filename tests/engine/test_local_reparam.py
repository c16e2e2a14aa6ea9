"""Local reparameterisation: its two moments are those of the masks, its draws are the key's, and
it is refused where wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import random

LAYERS = [
    (nn.Linear(30, 4), (30,)),
    (nn.Conv1d(5, 4, 3, padding=1), (5, 4)),
    (nn.Conv2d(4, 4, 3, groups=2), (4, 4, 4)),
    (nn.ConvTranspose2d(4, 2, 3), (4, 2, 2)),
]


def rows_of(
    module: nn.Module, rules: Any = None, **settings: Any
) -> tuple[Any, Any, Any, Any, l0.GateSpec]:
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, rules or {"*weight*": l0.element(), "*": None})
    gates = l0.init_gates(random.key(0), spec, noise=1.0)
    rows = l0.per_example(l0.gated(fn, spec, sampling="local_reparam"), **settings)
    return rows, params, gates, buffers, spec


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_pre_activations_have_the_two_moments_of_the_gated_sum(
    layer: nn.Module, shape: tuple[int, ...]
):
    torch.manual_seed(0)
    rows, params, gates, buffers, spec = rows_of(layer)
    n = 20_000
    x = torch.randn(shape)
    y = rows(params, gates, buffers, random.split(random.key(1), n), x.expand(n, *shape))
    one = nn.Module.double(layer)

    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(
            one, {"weight": w, "bias": torch.zeros_like(params["bias"]).double()}, x[None]
        )[0]

    w, la = params["weight"].double(), gates["weight"].double()
    mean = product(x.double(), w * spec.gates[0].distribution.mean(la))
    mean = mean + params["bias"].reshape(-1, *(1,) * (mean.dim() - 1))
    variance = product(x.double() ** 2, w**2 * spec.gates[0].distribution.variance(la))
    assert ((y.double().mean(0) - mean).abs() < 5 * (variance / n).sqrt() + 1e-6).all()
    assert ((y.double().var(0) / variance - 1).abs() < 5 * (2 / n) ** 0.5).all()


USES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, int]]] = {
    "x @ w": (lambda x, w: x @ w, (6, 4)),
    "x @ w.t()": (lambda x, w: x @ w.t(), (4, 6)),
    "w.t() @ x.t()": (lambda x, w: (w.t() @ x.t()).t(), (6, 4)),
    "linear of w.T": (lambda x, w: F.linear(x, w.T), (6, 4)),
}


@pytest.mark.parametrize(("use", "shape"), USES.values(), ids=USES.keys())
def test_a_weight_that_is_used_turned_has_the_two_moments_of_its_own_gates(use: Any, shape: Any):
    torch.manual_seed(0)
    params, x = {"w": torch.randn(shape)}, torch.randn(1, 6)
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec, noise=1.0)
    apply = l0.gated(lambda p, buffers, x: use(x, p["w"]), spec, sampling="local_reparam")
    rows, n = l0.per_example(apply), 5_000
    keys, inputs = random.split(random.key(1), n), x.expand(n, 6)
    y = rows(params, gates, {}, keys, inputs).double()
    mean, variance = spec.gates[0].distribution.mean_and_variance(gates["w"].double())
    mean = use(x.double(), params["w"].double() * mean)[0]
    variance = use(x.double() ** 2, params["w"].double() ** 2 * variance)[0]
    assert ((y.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((y.var(0) / variance - 1).abs() < 5 * (2 / n) ** 0.5).all()
    # Where a vmap maps the gates, the weight turns behind their batch.
    several = {"w": torch.stack([gates["w"], gates["w"] + 1, -gates["w"]])}
    of_all = torch.vmap(lambda g: rows(params, g, {}, keys[:5], inputs[:5]))(several)
    of_each = [rows(params, {"w": la}, {}, keys[:5], inputs[:5]) for la in several["w"]]
    torch.testing.assert_close(of_all, torch.stack(of_each))


def test_a_row_is_its_keys_alone_and_chunks_change_nothing():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    rows, params, gates, buffers, _ = rows_of(module)
    keys, x = random.split(random.key(1), 7), torch.randn(7, 6)
    whole = rows(params, gates, buffers, keys, x)
    torch.testing.assert_close(
        rows(params, gates, buffers, keys.flip(0), x.flip(0)).flip(0), whole
    )
    chunked, *_ = rows_of(module, chunk_size=2)
    torch.testing.assert_close(chunked(params, gates, buffers, keys, x), whole)
    assert not torch.equal(rows(params, gates, buffers, keys, x[:1].expand(7, 6))[0], whole[1])


def test_its_gradient_is_that_of_the_written_out_gaussian():
    torch.manual_seed(0)
    params = {"w": torch.randn(4, 6, dtype=torch.float64)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec, noise=1.0)
    rows = l0.per_example(
        l0.gated(lambda p, b, x: F.linear(x, p["w"]), spec, sampling="local_reparam")
    )
    keys, x = random.split(random.key(1), 5), torch.randn(5, 6, dtype=torch.float64)
    d = spec.gates[0].distribution

    def by_hand(p: Any, g: Any) -> Tensor:
        drawn = rows({"w": params["w"].detach()}, gates, {}, keys, x)
        m = x @ (params["w"] * d.mean(gates["w"])).T
        s = (x**2 @ (params["w"] ** 2 * d.variance(gates["w"])).T).sqrt()
        noise = ((drawn - m) / s).detach()
        return (
            (
                x @ (p["w"] * d.mean(g["w"])).T
                + (x**2 @ (p["w"] ** 2 * d.variance(g["w"])).T).sqrt() * noise
            )
            .sin()
            .sum()
        )

    ours = torch.func.grad(lambda p, g: rows(p, g, {}, keys, x).sin().sum(), (0, 1))(params, gates)
    theirs = torch.func.grad(by_hand, (0, 1))(params, gates)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_weights_that_never_vary_have_finite_gradients():
    params = {"w": torch.ones(2, 3)}
    spec = l0.gate_spec(params)
    rows = l0.per_example(
        l0.gated(lambda p, b, x: F.linear(x, p["w"]), spec, sampling="local_reparam")
    )
    for la in (-200.0, 200.0):
        gates = {"w": torch.full((2, 3), la)}
        slopes = torch.func.grad(
            lambda p, g: rows(p, g, {}, random.split(random.key(0), 4), torch.ones(4, 3)).sum(),
            (0, 1),
        )
        assert all(t.isfinite().all() for part in slopes(params, gates) for t in part.values())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.one(x))


def call(module: nn.Module, x: Tensor, rules: Any = None) -> Any:
    rows, params, gates, buffers, _ = rows_of(module, rules)
    return rows(params, gates, buffers, random.split(random.key(1), len(x)), x)


def test_where_it_would_be_wrong_it_is_refused_by_name():
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"'one.weight' is used twice in one call"):
        call(Twice(), x)
    with pytest.raises(
        ValueError, match=r"'weight_hh_l0' is read by another operation, or at every step"
    ):
        call(nn.LSTM(3, 2, batch_first=True), torch.randn(2, 4, 3))
    with pytest.raises(ValueError, match=r"'weight' is read by another operation"):
        call(nn.Embedding(5, 3), torch.tensor([[1], [2]]))
    with pytest.raises(
        ValueError,
        match=r"'weight' has shape \(3, 2, 2\), and its gates, by axes.*, have \(3, 2\)",
    ):
        call(nn.Conv1d(2, 3, 2), torch.randn(2, 2, 4), {"weight": l0.axes(0, 1)})
    fn, params, buffers = l0.make_functional(nn.Linear(3, 2))
    spec = l0.gate_spec(params)
    apply = l0.gated(fn, spec, sampling="local_reparam")
    with pytest.raises(ValueError, match="no mask that a batch shares"):
        apply(params, l0.init_gates(random.key(0), spec), buffers, random.key(1), x)
    with pytest.raises(ValueError, match=r"sampling is one of .*; got 'local'"):
        l0.gated(fn, spec, sampling="local")


def test_structured_gates_stay_exact():
    module = nn.Linear(3, 2)
    rows, params, gates, buffers, spec = rows_of(module, {"weight": l0.axis(0)})
    keys, x = random.split(random.key(1), 4), torch.randn(4, 3)
    exact = l0.per_example(l0.gated(l0.make_functional(module).fn, spec))
    assert torch.equal(
        rows(params, gates, buffers, keys, x), exact(params, gates, buffers, keys, x)
    )


def test_attention_draws_for_queries_keys_and_values_apart():
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.0)
    y = call(
        module,
        torch.randn(3, 5, 4),
        {"*weight": l0.element(), "*": None, "norm*": None} | {"*norm*": None},
    )
    assert y.shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("layer", "shape", "rule"),
    [
        (nn.Linear(3, 2), (3,), l0.axes(0, 1)),
        (nn.Linear(3, 2), (3,), l0.axes(1, 0)),
        (nn.Conv1d(3, 2, 2), (3, 4), l0.axes(0, 1, 2)),
    ],
    ids=str,
)
def test_a_rule_with_a_gate_for_every_entry_is_as_good_as_element(layer, shape, rule):
    x, drawn = torch.randn(5, *shape), []
    keys = random.split(random.key(1), 5)
    for own in (l0.element(), rule):
        rows, params, gates, buffers, _ = rows_of(layer, {"weight": own, "*": None})
        same = {"weight": torch.linspace(-2, 2, gates["weight"].numel())}
        same["weight"] = same["weight"].reshape(gates["weight"].shape)
        drawn.append(rows(params, same, buffers, keys, x))
    torch.testing.assert_close(drawn[1], drawn[0])
