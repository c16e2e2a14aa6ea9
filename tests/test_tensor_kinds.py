"""Every kind of tensor keeps its type, or is refused by name at the user's call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import DEVICE
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0
from l0func import random

KEY = random.key(1)


def quiet(make: Callable[[], Tensor]) -> Tensor:
    """A tensor of a kind that torch itself warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


OTHER_FORMS: dict[str, Callable[[], Tensor]] = {
    "torch.sparse_coo": lambda: torch.eye(4).to_sparse(),
    "torch.sparse_csr": lambda: torch.eye(4).to_sparse_csr(),
    "torch.sparse_csc": lambda: torch.eye(4).to_sparse_csc(),
    "torch.sparse_bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "torch._mkldnn": lambda: torch.eye(4, device="cpu").to_mkldnn(),
    "torch.qint8": lambda: torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8),
}
NARROW = [torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool]
NARROW += [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_gate_on_a_tensor_that_is_not_dense_is_refused_by_name(form: str):
    w = quiet(OTHER_FORMS[form])
    with pytest.raises(ValueError, match=rf"dense tensor; 'w' is .*{form} .*makes it dense"):
        l0.gate_spec({"w": w, "v": torch.ones(3)})
    spec = l0.gate_spec({"w": torch.eye(4)})
    gates = l0.init_gates(KEY, spec)
    calls = (l0.prune, l0.summary, l0.penalty, l0.expected_l2, l0.squared_mean)
    for call in calls:
        with pytest.raises(ValueError, match=rf"dense tensor; 'w' is .*{form}"):
            call({"w": w}, gates, spec)


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_tensor_that_is_not_dense_lives_beside_gated_ones(form: str, tmp_path: Any):
    params = {"w": quiet(OTHER_FORMS[form]), "v": torch.ones(3, 4)}
    spec = l0.gate_spec(params, {"v": l0.element()})
    gates = l0.init_gates(KEY, spec)
    assert l0.summary(params, gates, spec)["w"].expected_l2 == pytest.approx(4.0, rel=0.01)
    assert l0.prune(params, gates, spec)["w"] is params["w"]
    assert l0.penalty(params, gates, spec, 1e-3, 0.1) > 0
    with pytest.raises(
        ValueError, match=rf"dense tensors; 'params/w' (has the layout|is) .*{form}"
    ):
        l0.save(tmp_path / "network", params, gates, {}, spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_gate_on_numbers_that_cannot_be_scaled_is_refused_by_name(dtype: torch.dtype):
    with pytest.raises(ValueError, match=rf"at least 16 bits; 'w' is {dtype}\. Exclude it"):
        l0.gate_spec({"w": torch.eye(4).to(dtype), "v": torch.ones(3)})


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_numbers_without_gates_keep_their_type(dtype: torch.dtype):
    params = {"w": torch.eye(4).to(dtype), "v": torch.ones(3, 4)}
    spec = l0.gate_spec(params, {"v": l0.element()})
    gates = l0.init_gates(KEY, spec)
    assert l0.summary(params, gates, spec)["w"].expected_l2 == 4.0
    assert l0.prune(params, gates, spec)["w"].dtype == dtype


def test_a_nested_tensor_is_refused_by_name():
    nested = quiet(lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]))
    with pytest.raises(ValueError, match=r"'w' is a nested tensor.*to_padded_tensor"):
        l0.gate_spec({"w": nested, "v": torch.ones(3)}, {"v": l0.element()})


class Masked(nn.Module):
    """Two layers with a buffer for each hidden unit, of a given type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("kept", torch.tensor([1, 0, 1, 1, 1, 0]).to(dtype))
        self.register_buffer("table", torch.arange(4).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.where(self.kept != 0, self.a(x).relu(), 0.0))


BUFFERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
BUFFERS += [torch.float16, torch.bfloat16, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", BUFFERS, ids=str)
def test_buffers_keep_their_type_where_units_go(dtype: torch.dtype, tmp_path: Any):
    net, x = Masked(dtype).eval(), torch.randn(5, 4)
    fn, params, buffers = l0.make_functional(net)
    owns = {"a.weight": l0.axis(0), "a.bias": l0.axis(0), "kept": l0.axis(0)}
    groups = {"units": l0.group({"b.weight": l0.axis(1)}, owns)}
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {"units": torch.tensor([9.0, -9, 9, 9, -9, 9])}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert small.buffers["kept"].tolist() == torch.tensor([1, 1, 1, 0]).to(dtype).tolist()
    assert small.buffers["table"].dtype == small.buffers["kept"].dtype == dtype
    module = l0.to_module(*small)
    assert module.kept.dtype == dtype
    expected = fn(l0.prune(params, gates, spec), buffers, x)
    torch.testing.assert_close(module(x), expected)
    if dtype != torch.complex64:
        l0.save(tmp_path / "network", params, gates, buffers, spec)
        loaded = l0.load(tmp_path / "network").buffers["kept"]
        assert torch.equal(loaded, buffers["kept"].cpu())
        assert loaded.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int8], ids=str)
def test_an_owned_parameter_of_integers_keeps_its_type(dtype: torch.dtype):
    params = {"w": torch.ones(3, 4), "table": torch.ones(4).to(dtype)}
    groups = {"g": l0.group({"w": l0.axis(1)}, {"table": l0.axis(0)})}
    spec = l0.gate_spec(params, groups=groups)
    pruned = l0.prune(params, {"g": torch.tensor([9.0, -9, 9, -9])}, spec)
    assert pruned["table"].dtype == dtype
    assert pruned["table"].tolist() == torch.tensor([1, 0, 1, 0]).to(dtype).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_params_cast_after_the_spec_keep_their_type(dtype: torch.dtype):
    params = {"w": torch.ones(3, 4)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    cast = {"w": params["w"].to(dtype)}
    assert l0.prune(cast, gates, spec)["w"].dtype == dtype
    assert l0.apply_masks(cast, l0.sample_masks(KEY, gates, spec))["w"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_squares_of_short_floats_neither_vanish_nor_overflow(dtype: torch.dtype):
    # In float16 the square of 1e-4 is 0, and the sum of 100,000 ones is infinite.
    for value, count in ((1e-4, 100), (1.0, 100_000)):
        params = {"w": torch.full((count,), value, dtype=dtype), "v": torch.ones(2)}
        spec = l0.gate_spec(params, {"v": l0.element()})
        gates = l0.init_gates(KEY, spec)
        expected = params["w"].double().square().sum().item()
        row = l0.summary(params, gates, spec)["w"]
        assert row.expected_l2 == pytest.approx(expected, rel=1e-3)


class Spectral(nn.Module):
    """A Fourier layer: complex weights for the lowest frequencies."""

    def __init__(self, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 4, dtype=dtype) / 3)
        self.bias = nn.Parameter(torch.randn(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        frequencies = torch.fft.rfft(x)[..., :4]
        y = torch.einsum("bix,iox->box", frequencies, self.weight)
        return torch.fft.irfft(y, n=16) + self.bias


RULES = {"entries": l0.element(), "rows": l0.axis(0), "frequencies": l0.axis(2)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_gate_is_a_real_factor_of_a_complex_weight(dtype: torch.dtype, rule: str):
    torch.manual_seed(0)
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    net, x = Spectral(dtype), torch.randn(5, 3, 16, dtype=real)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"weight": RULES[rule]})
    gates = l0.init_gates(random.key(0), spec, droprate=0.4)
    assert gates["weight"].dtype == real
    keys = random.split(KEY, 5)
    rows = []
    for key, row in zip(keys, x, strict=True):
        mask = l0.sample_masks(key, gates, spec)["weight"]
        assert mask.dtype == real
        changed = {**params, "weight": params["weight"] * mask}
        rows.append(functional_call(net, changed, (row[None],)))
        one = l0.gated(fn, spec)(params, gates, buffers, key, row[None])
        torch.testing.assert_close(one, rows[-1], check_dtype=False)
    ours = l0.per_example(l0.gated(fn, spec))(params, gates, buffers, keys, x)
    torch.testing.assert_close(ours, torch.cat(rows), check_dtype=False)


def test_the_costs_of_a_complex_weight_are_those_of_its_absolute_value():
    params = {"w": torch.randn(3, 4, dtype=torch.complex64)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec, noise=1.0)
    squared, law = params["w"].abs() ** 2, l0.HardConcrete()
    opened = law.prob_nonzero(gates["w"])
    second = (squared * law.second_moment(gates["w"])).sum()
    torch.testing.assert_close(l0.expected_l2(params, gates, spec), second)
    mean = (squared * law.mean(gates["w"]) ** 2).sum()
    torch.testing.assert_close(l0.squared_mean(params, gates, spec), mean)
    cost = l0.penalty(params, gates, spec, 1e-3, 0.1)
    torch.testing.assert_close(cost, ((1e-3 + 0.05 * squared) * opened).sum())
    slope = torch.func.grad(lambda p: l0.penalty(p, gates, spec, 1e-3, 0.1))(params)["w"]
    torch.testing.assert_close(slope, 0.1 * params["w"] * opened)
    row = l0.summary(params, gates, spec)["w"]
    assert row.expected_l2 == pytest.approx(second.item(), rel=1e-5)
    assert row.realised_open == (l0.prune(params, gates, spec)["w"] != 0).sum()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.NAdam])
def test_complex_weights_train_by_the_librarys_optimizers(kind: Any):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(Spectral())
    spec = l0.gate_spec(params, {"weight": l0.element()})
    apply, x = l0.gated(fn, spec), torch.randn(8, 3, 16)
    y = fn({**params, "weight": torch.flip(params["weight"], (0,))}, buffers, x)

    def loss(p: Any, g: Any, b: Any, key: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (apply(p, g, b, key, x) - y).square().mean() + l0.penalty(p, g, spec, 1e-5)

    rate = 0.05 if kind is not torch.optim.SGD else 1.0
    fitting = l0.training(loss, l0.optimizer(kind, lr=rate), l0.optimizer(kind, lr=rate))
    state = fitting.init(random.key(0), params, l0.init_gates(KEY, spec, 0.05), buffers)
    losses = []
    for _ in range(60):
        state, value = fitting.step(state, x, y)
        losses.append(value.item())
    assert state.params["weight"].dtype == torch.complex64
    assert state.gates["weight"].dtype == torch.float32
    assert losses[-1] < 0.6 * losses[0]


def test_a_type_that_files_lack_is_refused_by_name(tmp_path: Any):
    params = {"w": torch.randn(3, 4, dtype=torch.complex128)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    with pytest.raises(ValueError, match=r"'params/w' is torch.complex128, which .*view_as_real"):
        l0.save(tmp_path / "network", params, gates, {}, spec)


def test_an_embedding_with_sparse_gradients_trains_under_gates():
    fn, params, buffers = l0.make_functional(nn.Embedding(9, 4, sparse=True))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    ids, leaf = torch.tensor([1, 2, 2]), params["weight"].requires_grad_()
    l0.gated(fn, spec)(params, gates, buffers, KEY, ids).sum().backward()
    slope = leaf.grad
    assert slope is not None
    masks = l0.sample_masks(KEY, gates, spec)["weight"]
    counts = torch.bincount(ids, minlength=9)[:, None]
    torch.testing.assert_close(slope.to_dense(), masks * counts)
    keys = random.split(KEY, 3)
    rows = l0.per_example(l0.gated(fn, spec))(params, gates, buffers, keys, ids)
    assert torch.autograd.grad(rows.sum(), leaf)[0].shape == (9, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_training_refuses_gates_that_would_not_move(dtype: torch.dtype):
    params = {"w": torch.ones(3, 4, dtype=dtype)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    assert gates["w"].dtype == torch.float32
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    fitting = l0.training(lambda p, g, b, k: l0.penalty(p, g, spec), sgd, sgd)
    start = gates["w"].clone()
    state = fitting.init(KEY, params, gates, {})
    for _ in range(3):
        state, _ = fitting.step(state)
    assert (state.gates["w"] != start).all()
    short = {"w": gates["w"].to(dtype)}
    with pytest.raises(ValueError, match=rf"learn in float32: the gates 'w' are {dtype}"):
        fitting.init(KEY, params, short, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_parameter_that_is_not_finite_is_refused_by_name(
    value: float, dtype: torch.dtype, tmp_path: Any
):
    net = nn.Linear(4, 3)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"weight": l0.axis(0)})
    gates = l0.init_gates(KEY, spec)
    broken = {"weight": params["weight"].to(dtype), "bias": params["bias"]}
    broken["weight"][1, 2] = value
    match = r"1 of 12 entries of the parameter 'weight' are NaN or infinite"
    for call in (l0.prune, l0.summary):
        with pytest.raises(ValueError, match=match):
            call(broken, gates, spec)
    with pytest.raises(ValueError, match=match):
        l0.compact(fn, broken, gates, buffers, spec)
    with pytest.raises(ValueError, match=match):
        l0.save(tmp_path / "network", broken, gates, buffers, spec)
    assert not list(tmp_path.iterdir())
    masked = l0.apply_masks(broken, {"weight": torch.zeros(3, 1)})["weight"]
    assert masked[1, 2].isnan()


def test_values_are_not_looked_at_inside_a_mapped_function():
    params = {"w": torch.ones(3, 4)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    broken = torch.stack([params["w"], torch.full((3, 4), float("nan"))])
    mapped = torch.vmap(lambda w: l0.prune({"w": w}, gates, spec)["w"])(broken)
    torch.testing.assert_close(mapped[0], l0.prune(params, gates, spec)["w"])


def test_parameters_on_the_meta_device_work_where_no_values_are_needed():
    params = {"w": torch.empty(3, 4, device="meta")}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    assert l0.penalty(params, gates, spec).isfinite()
    on_meta = {"w": gates["w"].to("meta")}
    assert l0.prune(params, on_meta, spec)["w"].shape == (3, 4)
    assert l0.expected_l2(params, on_meta, spec).device.type == "meta"
    with pytest.raises(ValueError, match=r"summary reads values, and 'w' is on the meta device"):
        l0.summary(params, on_meta, spec)
    calls = (l0.prune, l0.summary, l0.expected_l2, l0.squared_mean)
    for call in calls:
        with pytest.raises(ValueError, match=rf"'w' is on meta and its gates are on {DEVICE}"):
            call(params, gates, spec)
    with pytest.raises(ValueError, match=rf"'w' is on meta and its gates are on {DEVICE}"):
        l0.penalty(params, gates, spec, 1e-3, 0.1)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_parameters_of_size_zero_cost_nothing(shape: tuple[int, ...]):
    params = {"w": torch.ones(shape), "v": torch.ones(2)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    assert gates["w"].shape == shape
    assert l0.summary(params, gates, spec)["w"].expected_open == 0.0
    assert l0.prune(params, gates, spec)["w"].shape == shape
    alone = l0.gate_spec({"w": params["w"]})
    for call in (l0.penalty, l0.expected_l2, l0.squared_mean):
        assert call({"w": params["w"]}, {"w": gates["w"]}, alone).item() == 0.0
