"""Rows under autocast have the dtype that the plain module gives, and the values near float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import DEVICE
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import random

ROWS = 4
# On the CPU torch 2.1 has autocast to bfloat16 alone.
SHORT = (torch.bfloat16, torch.float16)[: 2 if hasattr(torch.compiler, "is_compiling") else 1]


class On(nn.Module):
    """A module around one function of the input and a weight."""

    def __init__(self, run: Callable[[Tensor, Tensor], Any], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) * 0.3)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(x, self.weight)


def after_linear(run: Callable[[Tensor], Tensor]) -> nn.Module:
    """A function of a linear layer's output, short under autocast."""
    return On(lambda x, w: run(F.linear(x, w)), 6, 4)


class Of(nn.Module):
    """One of a module's outputs."""

    def __init__(self, module: nn.Module, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.pick = pick

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.pick(self.module(*inputs))


class Itself(Of):
    """Attention of a sequence to itself."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return super().forward(x, x, x)


class Without(nn.Module):
    """A layer inside the module's own region without autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.wide = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.short(x)
        with torch.autocast(DEVICE, enabled=False):
            return self.wide(y.float())


VECTORS, SEQUENCES = (ROWS, 4), (ROWS, 5, 4)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), VECTORS),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), SEQUENCES),
    "bilinear": (lambda: On(lambda x, w: F.bilinear(x, x, w), 3, 4, 4), VECTORS),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3), (ROWS, 2, 8)),
    "conv2d in groups": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), (ROWS, 2, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (ROWS, 2, 4, 4, 4)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(2, 4, 3), (ROWS, 2, 8)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 4, 3, stride=2), (ROWS, 2, 5, 5)),
    "@": (lambda: On(lambda x, w: x @ w, 4, 3), VECTORS),
    "mm": (lambda: On(torch.mm, 4, 3), VECTORS),
    "mv": (lambda: On(lambda x, w: torch.mv(w, x[0])[None], 3, 4), VECTORS),
    "bmm": (lambda: On(lambda x, w: torch.bmm(x, w.expand(len(x), 4, 3)), 1, 4, 3), SEQUENCES),
    "addmm": (lambda: On(lambda x, w: torch.addmm(torch.ones(3), x, w), 4, 3), VECTORS),
    "baddbmm": (
        lambda: On(lambda x, w: torch.baddbmm(x, x, w.expand(len(x), 4, 4)), 1, 4, 4),
        (ROWS, 4, 4),
    ),
    "einsum": (lambda: On(lambda x, w: torch.einsum("bti,hio->bhto", x, w), 2, 4, 3), SEQUENCES),
    "attention": (
        lambda: Itself(nn.MultiheadAttention(4, 2, batch_first=True), lambda y: y[0]),
        SEQUENCES,
    ),
    "attention weights": (
        lambda: Itself(nn.MultiheadAttention(4, 2, batch_first=True), lambda y: y[1]),
        SEQUENCES,
    ),
    "fused attention": (
        lambda: On(lambda x, w: F.scaled_dot_product_attention(x @ w, x, x), 4, 4),
        SEQUENCES,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        SEQUENCES,
    ),
    "LSTM": (lambda: Of(nn.LSTM(4, 3, batch_first=True), lambda y: y[0]), SEQUENCES),
    "GRU": (lambda: Of(nn.GRU(4, 3, batch_first=True), lambda y: y[0]), SEQUENCES),
    "RNN": (lambda: Of(nn.RNN(4, 3, batch_first=True), lambda y: y[0]), SEQUENCES),
    "LSTM with projections": (
        lambda: Of(nn.LSTM(4, 3, batch_first=True, proj_size=2), lambda y: y[0]),
        SEQUENCES,
    ),
    "LSTM cell": (lambda: Of(nn.LSTMCell(4, 3), lambda y: y[1]), VECTORS),
    "GRU cell": (lambda: nn.GRUCell(4, 3), VECTORS),
    "RNN cell": (lambda: nn.RNNCell(4, 3), VECTORS),
    "PReLU": (lambda: nn.PReLU(4), VECTORS),
    "BatchNorm in training mode": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)),
        VECTORS,
    ),
    "BatchNorm in eval mode": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval(),
        VECTORS,
    ),
    "InstanceNorm in eval mode": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, track_running_stats=True)
        ).eval(),
        (ROWS, 2, 8),
    ),
    "GroupNorm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6)), VECTORS),
    "LayerNorm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), VECTORS),
    "softmax": (lambda: after_linear(lambda y: y.softmax(-1)), VECTORS),
    "a sum with float32": (lambda: after_linear(lambda y: y + torch.ones(6)), VECTORS),
    "cat with float32": (lambda: after_linear(lambda y: torch.cat([y, y.float()], -1)), VECTORS),
    "exp": (lambda: after_linear(torch.exp), VECTORS),
    "cdist": (lambda: after_linear(lambda y: torch.cdist(y[:, None], 1 + y[:, None])), VECTORS),
    "fft": (lambda: after_linear(lambda y: torch.fft.rfft(y).abs()), VECTORS),
    "cross_entropy": (
        lambda: after_linear(
            lambda y: F.cross_entropy(y, y.argmax(-1), reduction="none"),
        ),
        VECTORS,
    ),
    "binary_cross_entropy_with_logits": (
        lambda: after_linear(
            lambda y: F.binary_cross_entropy_with_logits(y, y.sigmoid(), reduction="none")
        ),
        VECTORS,
    ),
    "mse_loss": (
        lambda: after_linear(lambda y: F.mse_loss(y, y.cos(), reduction="none")),
        VECTORS,
    ),
    "smooth_l1_loss": (
        lambda: after_linear(lambda y: F.smooth_l1_loss(y, y.cos(), reduction="none")),
        VECTORS,
    ),
    "its own region without autocast": (Without, VECTORS),
}
if hasattr(nn, "RMSNorm"):
    MODULES["RMSNorm"] = (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6, elementwise_affine=False)),
        VECTORS,
    )
RULES = {"entries": l0.element(), "rows": l0.axis(0), "columns": l0.axis(1)}


def plain_under_autocast(net: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The module's own output, or a skip where torch's kernel is missing."""
    try:
        with torch.autocast(DEVICE, dtype):
            return net(x)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this torch does not run the module itself under {dtype}: {error}")


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MODULES)
def test_rows_have_the_dtype_of_the_plain_module(name: str, rule: str, dtype: torch.dtype):
    torch.manual_seed(0)
    make, shape = MODULES[name]
    net, x = make(), torch.randn(shape)
    if rule == "columns" and all(p.dim() < 2 for p in net.parameters()):
        pytest.skip("the module has no columns")
    expected = plain_under_autocast(net, x, dtype).dtype
    fn, params, buffers = l0.make_functional(net)
    rank = 2 if rule == "columns" else 1
    rules = {path: RULES[rule] for path, p in params.items() if p.dim() >= rank}
    spec = l0.gate_spec(params, rules)
    gates = {k: v.requires_grad_() for k, v in l0.init_gates(random.key(0), spec, 0.02).items()}
    leaves = [*params.values(), *gates.values()]
    for parameter in params.values():
        parameter.requires_grad_()
    rows, keys = l0.per_example(l0.gated(fn, spec)), random.split(random.key(1), ROWS)
    with torch.autocast(DEVICE, dtype):
        ours, _ = rows.with_buffers(params, gates, buffers, keys, x)
    wide, _ = rows.with_buffers(params, gates, buffers, keys, x)
    assert ours.dtype == expected
    scale = wide.abs().max().item()
    torch.testing.assert_close(ours.float(), wide, rtol=0.05, atol=0.05 * scale)
    slopes = torch.autograd.grad(ours.float().sum(), leaves, allow_unused=True)
    assert all(slope is None or slope.dtype == torch.float32 for slope in slopes)


LOCAL = {
    "linear": (lambda: nn.Linear(4, 3), VECTORS),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3), (ROWS, 2, 6, 6)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(2, 4, 3), (ROWS, 2, 8)),
}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", LOCAL)
def test_local_reparameterisation_keeps_small_and_large_variances(
    name: str, dtype: torch.dtype, scale: float
):
    # In float16 the square of 300 is infinite, and the square of 1e-4 is 0.
    torch.manual_seed(0)
    make, shape = LOCAL[name]
    net, x = make(), scale * torch.randn(shape)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec, sampling="local_reparam"))
    keys = random.split(random.key(1), ROWS)
    wide = rows(params, gates, buffers, keys, x)
    with torch.autocast(DEVICE, dtype):
        ours = rows(params, gates, buffers, keys, x)
    assert ours.dtype == dtype
    size = wide.abs().max().item()
    torch.testing.assert_close(ours.float(), wide, rtol=0.02, atol=0.02 * size)


@pytest.mark.parametrize("dtype", SHORT)
def test_keyed_dropout_between_layers_keeps_the_dtype_of_the_plain_module(dtype: torch.dtype):
    net = Of(nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True), lambda y: y[0])
    x = torch.randn(SEQUENCES)
    expected = plain_under_autocast(net, x, dtype).dtype
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*weight_ih_l0": l0.axis(0)})
    gates = l0.init_gates(random.key(0), spec)
    apply = l0.gated(fn, spec)
    keys = random.split(random.key(1), ROWS)
    with torch.autocast(DEVICE, dtype):
        assert apply(params, gates, buffers, keys[0], x).dtype == expected
        assert l0.per_example(apply)(params, gates, buffers, keys, x).dtype == expected


def test_a_batchnorm_after_a_short_layer_keeps_its_statistics_in_float32():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"0.weight": l0.axis(0)})
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    keys, x = random.split(random.key(1), 64), torch.randn(64, 4)
    with torch.autocast(DEVICE, torch.bfloat16):
        _, ours = rows.with_buffers(params, gates, buffers, keys, x)
    _, wide = rows.with_buffers(params, gates, buffers, keys, x)
    for name, value in wide.items():
        assert ours[name].dtype == value.dtype
        torch.testing.assert_close(ours[name], value, rtol=0.01, atol=0.01)


@pytest.mark.compiles
def test_a_compiled_call_under_autocast_has_the_same_dtype():
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3))
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"0.weight": l0.axis(0), "3.weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    compiled = torch.compile(rows, fullgraph=True, backend="aot_eager")
    arguments = (params, gates, buffers, random.split(random.key(1), ROWS), torch.randn(VECTORS))
    with torch.autocast(DEVICE, torch.bfloat16):
        ours, eager = compiled(*arguments), rows(*arguments)
    assert ours.dtype == eager.dtype == torch.bfloat16
    torch.testing.assert_close(ours, eager, rtol=0.05, atol=0.02)
