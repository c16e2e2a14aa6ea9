"""Purity, and a mask for every row: laws 1 and 3, over the zoo."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import optree
import pytest
import torch
from comparing import close, equal
from settings import KEYS, Setting, setting
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BY_NAME, CASES, Case

import l0func as l0
from l0func import random

every = pytest.mark.parametrize("case", CASES, ids=repr)


def row(value: Any, i: int, dims: Any) -> Any:
    """Row i as a batch of one, everywhere in a pytree."""
    if not isinstance(dims, tuple):
        return optree.tree_map(
            lambda x: x.narrow(dims, i, 1) if isinstance(x, Tensor) else x, value
        )
    return tuple(row(v, i, d) for v, d in zip(value, dims, strict=True))


@pytest.mark.parametrize("case", [c for c in CASES if c.rows_alone], ids=repr)
def test_a_row_of_many_equals_a_batch_of_one_with_its_key(case: Case):
    s = setting(case)
    outputs = s.rows(s.params, s.gates, s.buffers, KEYS, *s.inputs)
    for i in range(5):
        alone = s.apply(s.params, s.gates, s.buffers, KEYS[i], *row(s.inputs, i, case.in_dims))
        close(row(outputs, i, case.out_dims), alone)
    first, second = row(outputs, 0, case.out_dims), row(outputs, 1, case.out_dims)
    assert not equal(first, second)


@pytest.mark.parametrize("case", [c for c in CASES if c.rows_alone], ids=repr)
def test_chunks_and_the_order_of_rows_change_nothing(case: Case):
    s = setting(case, chunk_size=2)
    whole = setting(case).rows(s.params, s.gates, s.buffers, KEYS, *s.inputs)
    close(s.rows(s.params, s.gates, s.buffers, KEYS, *s.inputs), whole)
    if case.in_dims == 0:
        turned = optree.tree_map(lambda x: x.flip(0) if isinstance(x, Tensor) else x, s.inputs)
        back = s.rows(s.params, s.gates, s.buffers, KEYS.flip(0), *turned)
        close(optree.tree_map(lambda x: x.flip(0) if isinstance(x, Tensor) else x, back), whole)


@every
def test_calls_change_no_argument_and_no_global_state(case: Case):
    s = setting(case)
    arguments = (s.params, s.gates, s.buffers, KEYS, s.inputs)
    before, state = copy.deepcopy(arguments), torch.get_rng_state()
    s.rows.with_buffers(s.params, s.gates, s.buffers, KEYS, *s.inputs)
    s.apply.with_buffers(s.params, s.gates, s.buffers, KEYS[0], *s.inputs)
    assert equal(before, arguments)
    assert torch.equal(state, torch.get_rng_state())


@every
def test_the_same_key_gives_the_same_output_on_any_thread(case: Case):
    s = setting(case)
    call = partial(s.apply.with_buffers, s.params, s.gates, s.buffers)
    expected = [call(key, *s.inputs) for key in KEYS]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda key: call(key, *s.inputs), KEYS))
    for ours, theirs in zip(results, expected, strict=True):
        close(ours, theirs)


@every
def test_gated_equals_the_masks_applied_by_hand(case: Case):
    s = setting(case)
    module = case.build().eval()
    fn, _, _ = l0.make_functional(module)
    apply = l0.gated(fn, s.spec)
    masked = l0.apply_masks(s.params, l0.sample_masks(KEYS[0], s.gates, s.spec))
    by_hand = torch.func.functional_call(module, {**masked, **s.buffers}, s.inputs)
    close(apply(s.params, s.gates, s.buffers, KEYS[0], *s.inputs), by_hand)
    fixed = l0.apply_masks(s.params, l0.deterministic_masks(s.gates, s.spec))
    close(apply(s.params, s.gates, s.buffers, None, *s.inputs), fn(fixed, s.buffers, *s.inputs))
    close(
        apply(s.params, s.gates, s.buffers, None, *s.inputs),
        fn(l0.prune(s.params, s.gates, s.spec), s.buffers, *s.inputs),
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.rows_alone], ids=repr)
def test_gradients_of_rows_are_those_of_a_loop(case: Case):
    s = setting(case)

    def total(output: Any) -> Tensor:
        return sum((x.double() ** 2).sum() for x in optree.tree_leaves(output))

    def by_rows(params: Any, gates: Any) -> Tensor:
        return total(s.rows(params, gates, s.buffers, KEYS, *s.inputs))

    def by_loop(params: Any, gates: Any) -> Tensor:
        parts = [row(s.inputs, i, case.in_dims) for i in range(5)]
        return sum(total(s.apply(params, gates, s.buffers, KEYS[i], *parts[i])) for i in range(5))

    ours = torch.func.grad(by_rows, (0, 1))(s.params, s.gates)
    loop = torch.func.grad(by_loop, (0, 1))(s.params, s.gates)
    optree.tree_map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5), ours, loop
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "rules", [{"weight_hh_l0": l0.element()}, {"weight_ih_l0": l0.axis(1)}, {"*": None}], ids=str
)
def test_recurrent_layers_gated_in_part_or_not_at_all_map_over_rows(kind, rules):
    case = Case(
        "part",
        lambda: kind(3, 4, batch_first=True),
        lambda: (torch.randn(5, 3, 3),),
        out_dims=(0, 1),
    )
    if kind is nn.LSTM:
        case = Case(
            "part",
            lambda: kind(3, 4, batch_first=True),
            lambda: (torch.randn(5, 3, 3),),
            out_dims=(0, (1, 1)),
        )
    s = setting(case, rules)
    outputs = s.rows(s.params, s.gates, s.buffers, KEYS, *s.inputs)
    for i in range(5):
        close(
            row(outputs, i, case.out_dims),
            s.apply(s.params, s.gates, s.buffers, KEYS[i], *row(s.inputs, i, 0)),
        )


# BatchNorm in training mode: the whole batch, written out by hand.


def _by_hand(s: Setting, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 'cnn' case with every row's own masks: convolution row by row, then statistics over all
    rows.
    """
    masked = [l0.apply_masks(s.params, l0.sample_masks(key, s.gates, s.spec)) for key in KEYS]
    h = torch.cat(
        [F.conv2d(x[i : i + 1], m["0.weight"], m["0.bias"]) for i, m in enumerate(masked)]
    )
    mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=False)
    h = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    outputs = []
    for i, m in enumerate(masked):
        normed = torch.relu(h[i] * m["1.weight"][:, None, None] + m["1.bias"][:, None, None])
        outputs.append(normed.flatten() @ m["4.weight"].T + m["4.bias"])
    count = h.numel() / h.shape[1]
    return torch.stack(outputs), 0.1 * mean, 0.9 + 0.1 * variance * count / (count - 1)


def test_batchnorm_in_training_mode_sees_the_whole_batch():
    s = setting(BY_NAME["cnn_train"])
    (x,) = s.inputs
    outputs, buffers = s.rows.with_buffers(s.params, s.gates, s.buffers, KEYS, x)
    expected, mean, variance = _by_hand(s, x)
    close((outputs, buffers["1.running_mean"]), (expected, mean))
    close(buffers["1.running_var"], variance)
    assert buffers["1.num_batches_tracked"] == 1

    def by_rows(s: Setting, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return s.rows.with_buffers(s.params, s.gates, s.buffers, KEYS, x)

    def loss(params: Any, gates: Any, road: Any) -> Tensor:
        return (road(s._replace(params=params, gates=gates), x)[0] ** 2).sum()

    by_road = torch.func.grad(loss, (0, 1))
    ours, theirs = (by_road(s.params, s.gates, road) for road in (by_rows, _by_hand))
    optree.tree_map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4), ours, theirs
    )


@pytest.mark.parametrize("momentum", [0.3, None])
def test_without_gates_batchnorm_over_rows_is_torchs_own(momentum):
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=momentum))
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"*": None})
    x = torch.randn(5, 4)
    rows = l0.per_example(l0.gated(fn, spec))
    outputs, updated = rows.with_buffers(params, {}, buffers, KEYS, x)
    expected, theirs = fn.with_buffers(params, buffers, x)
    close((outputs, updated), (expected, theirs))


def test_an_ensemble_of_batchnorm_models_keeps_its_statistics_apart():
    s = setting(BY_NAME["cnn_train"])
    models = [{name: p * scale for name, p in s.params.items()} for scale in (1.0, 2.0)]
    stacked = {name: torch.stack([m[name] for m in models]) for name in s.params}
    statistics = {name: torch.stack([b, b]) for name, b in s.buffers.items()}
    both = torch.vmap(lambda p, b: s.rows.with_buffers(p, s.gates, b, KEYS, *s.inputs))
    outputs, buffers = both(stacked, statistics)
    for i, model in enumerate(models):
        output, own = s.rows.with_buffers(model, s.gates, s.buffers, KEYS, *s.inputs)
        close((outputs[i], {name: b[i] for name, b in buffers.items()}), (output, own))


def test_an_ensemble_with_one_set_of_running_statistics_is_refused():
    s = setting(BY_NAME["cnn_train"])
    stacked = {name: torch.stack([p, 2 * p]) for name, p in s.params.items()}
    with pytest.raises(ValueError, match="Stack the buffers as the params are"):
        torch.vmap(lambda p: s.rows.with_buffers(p, s.gates, s.buffers, KEYS, *s.inputs))(stacked)


# Dropout and other randomness.


def keyed(layer: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """A layer behind an identity of weight one, with a key and no gates."""
    fn, _, buffers = l0.make_functional(nn.Sequential(nn.Linear(1, 1, bias=False), layer))
    params = {"0.weight": torch.ones(1, 1)}
    return l0.gated(fn, l0.gate_spec(params, {"*": None}))(
        params, {}, buffers, random.key(seed), x
    )


def test_dropout_drops_the_share_that_it_promises_and_scales_the_rest():
    x = torch.ones(100_000, 1)
    y = keyed(nn.Dropout(0.3), x)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs((y == 0).float().mean().item() - 0.3) < 5 * (0.21 / 100_000) ** 0.5
    assert not torch.equal(y, keyed(nn.Dropout(0.3), x, seed=1))
    assert torch.equal(y, keyed(nn.Dropout(0.3, inplace=True), x))
    assert torch.equal(keyed(nn.Dropout(1.0), x), 0 * x)


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_alpha_dropout_keeps_mean_and_variance(p):
    x = random.normal(random.key(9), (400_000, 1))
    for layer in (nn.AlphaDropout(p), nn.FeatureAlphaDropout(p)):
        y = keyed(layer, x)
        assert abs(y.mean().item()) < 0.02
        assert abs(y.var().item() - 1) < 0.03


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout1d(0.5), (6, 8, 5, 1)),
        (nn.Dropout2d(0.5), (6, 8, 5, 1)),
        (nn.Dropout3d(0.5), (6, 8, 3, 5, 1)),
    ],
    ids=str,
)
def test_dropout_of_channels_drops_whole_channels(layer, shape):
    x = torch.ones(shape) if not isinstance(layer, nn.Dropout1d) else torch.ones(6, 8, 1)
    y = keyed(layer, x)
    whole = y.flatten(2)
    assert ((whole == 0).all(-1) | (whole == 2).all(-1)).all()
    assert 0 < (whole[..., 0] == 0).sum() < 48


class Noisy(nn.Module):
    """Draws in every way that the library answers from the key."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            "rrelu": F.rrelu(-x, 0.1, 0.3, training=True),
            "rand": torch.rand(x.shape, dtype=torch.float64),
            "randn": torch.randn(4, 3),
            "rand_like": torch.rand_like(x),
            "randn_like": torch.randn_like(x),
            "bernoulli": torch.bernoulli(torch.full_like(x, 0.25)),
            "method": torch.full_like(x, 0.75).bernoulli(),
            "gumbel": F.gumbel_softmax(torch.zeros(x.shape[0], 3), hard=True),
            "again": torch.rand_like(x),
        }


def test_every_way_to_draw_is_answered_from_the_key():
    x = torch.ones(50_000, 1)
    torch.manual_seed(0)
    y = keyed(Noisy(), x)
    consumed = torch.get_rng_state()
    torch.manual_seed(0)
    nn.Linear(1, 1, bias=False)
    assert torch.equal(consumed, torch.get_rng_state())
    assert equal(y, keyed(Noisy(), x))
    assert -0.3 <= y["rrelu"].min() < y["rrelu"].max() <= -0.1
    assert abs(y["rrelu"].mean().item() + 0.2) < 0.01
    assert y["rand"].dtype == torch.float64
    assert abs(y["rand_like"].mean().item() - 0.5) < 0.01
    assert not torch.equal(y["rand_like"], y["again"])
    assert y["randn"].shape == (4, 3)
    assert abs(y["randn_like"].std().item() - 1) < 0.02
    assert abs(y["bernoulli"].mean().item() - 0.25) < 0.01
    assert abs(y["method"].mean().item() - 0.75) < 0.01
    torch.testing.assert_close(y["gumbel"].sum(1), torch.ones(50_000))
    assert (y["gumbel"].mean(0) - 1 / 3).abs().max() < 0.02


class Global(nn.Module):
    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(x)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (torch.poisson, "poisson"),
        (lambda x: torch.binomial(x, x), "binomial"),
        (lambda x: torch.native_dropout(x, 0.5, True), "native_dropout"),
        (lambda x: torch.distributions.Gamma(x, x).sample(), "_standard_gamma"),
        (lambda x: nn.Linear(1, 2)(x), "kaiming_uniform_"),
        (
            lambda x: F.fractional_max_pool2d(x.reshape(1, 1, 2, 2), 1, output_size=1),
            "fractional_max_pool2d",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_would_draw_from_the_global_generator_is_refused_by_name(draw, name):
    with pytest.raises(ValueError, match=f"'{name}.*' draws from the global generator"):
        keyed(Global(draw), torch.ones(4, 1))


# What a row's road may be given.


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))

    def forward(
        self, x: Tensor, shared: Tensor, *, offset: Tensor, flag: bool = True
    ) -> tuple[Any, ...]:
        return {"y": (x + shared + offset) * self.w if flag else x}, None, 3


def test_inputs_and_outputs_are_pytrees_with_dimensions_of_their_own():
    fn, params, buffers = l0.make_functional(Summing())
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    x, shared, offset = torch.randn(1, 5, 3), torch.randn(3), torch.randn(5, 1, 1)
    rows = l0.per_example(l0.gated(fn, spec), in_dims=(1, None), out_dims=1)
    output, nothing, three = rows(
        params, gates, buffers, KEYS, x, shared, offset=offset, flag=True
    )
    assert (nothing, three) == (None, 3)
    for i, key in enumerate(KEYS):
        mask = l0.sample_masks(key, gates, spec)["w"]
        torch.testing.assert_close(output["y"][:, i], (x[:, i] + shared + offset[i, 0]) * mask)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.last = x[0]
        return x * self.w


def test_a_buffer_that_would_differ_from_row_to_row_is_refused():
    fn, params, buffers = l0.make_functional(Remembers())
    spec = l0.gate_spec(params)
    rows = l0.per_example(l0.gated(fn, spec))
    with pytest.raises(ValueError, match="differs from row to row"):
        rows.with_buffers(
            params, l0.init_gates(random.key(0), spec), buffers, KEYS, torch.randn(5, 3)
        )


def test_a_function_that_is_not_from_a_module_can_be_gated():
    params = {"w": torch.randn(3, 2)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    apply = l0.gated(lambda p, b, x: x @ p["w"] + b["shift"], spec, estimator="median")
    x, buffers = torch.randn(5, 3), {"shift": torch.ones(2)}
    y = l0.per_example(apply)(params, gates, buffers, KEYS, x)
    mask = l0.sample_masks(KEYS[2], gates, spec)["w"]
    torch.testing.assert_close(y[2], x[2] @ (params["w"] * mask) + 1)
    median = l0.deterministic_masks(gates, spec, "median")["w"]
    torch.testing.assert_close(
        apply(params, gates, buffers, None, x), x @ (params["w"] * median) + 1
    )
    with pytest.raises(
        TypeError, match=r"with_buffers needs a function made by l0func.make_functional"
    ):
        apply.with_buffers(params, gates, buffers, None, x)
