"""Recurrent layers in plain operations equal torch's own, and every transform follows them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from device import seeded_generator
from sampled import one_in, sampled
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

from l0func.pure.written_out import cells, recurrent
from l0func.pure.written_out.table import is_packed

T, N, D, H = 4, 2, 3, 4
close = torch.testing.assert_close


class Kind(NamedTuple):
    """A recurrent function of torch: its name, its weights' rows over H, its projection."""

    name: str
    gates: int
    projection: int = 0


KINDS = [
    Kind("lstm", 4),
    Kind("lstm", 4, projection=2),
    Kind("gru", 3),
    Kind("rnn_tanh", 1),
    Kind("rnn_relu", 1),
]


def name_of(kind: Any) -> str:
    return f"{kind.name}{kind.projection or ''}"


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name_of)


@pytest.fixture(autouse=True)
def _torch_s_own_kernels() -> Iterator[None]:
    """Of cuDNN's networks, those in training mode alone have gradients."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


def untouched(x: Tensor, p: float) -> Tensor:
    raise AssertionError("dropout was drawn where none is active")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded_generator(seed))


def weights(kind: Kind, layers: int, directions: int, biases: bool) -> list[Tensor]:
    """The flat weights of a network, drawn."""
    rows, out = kind.gates * H, kind.projection or H
    shapes: list[tuple[int, ...]] = []
    for layer in range(layers):
        one = [
            (rows, out * directions if layer else D),
            (rows, out),
            *([(rows,), (rows,)] if biases else []),
        ]
        shapes += (one + ([(out, H)] if kind.projection else [])) * directions
    return [draw(*shape, seed=i) for i, shape in enumerate(shapes)]


def initial(kind: Kind, count: int) -> Any:
    h, c = draw(count, N, kind.projection or H, seed=90), draw(count, N, H, seed=91)
    return (h, c) if kind.name == "lstm" else h


def written_out(kind: Kind, *args: Any, dropout: Any = untouched) -> tuple[Tensor, ...]:
    return getattr(recurrent, kind.name)(*args, dropout=dropout)


def with_gradients(f: Any, *leaves: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    leaves = tuple(x.detach().requires_grad_() for x in leaves)
    output = f(*leaves)
    loss = sum((y * torch.arange(y.numel()).cos().reshape(y.shape)).sum() for y in output)
    return output, torch.autograd.grad(loss, leaves)


def run(f: Any, kind: Kind, layers: int, biases: bool, both: bool, first: bool) -> Any:
    """Values of a network, and gradients for its inputs, its initial state and its weights."""
    count = layers * (1 + both)
    hx = initial(kind, count)
    states = hx if isinstance(hx, tuple) else (hx,)
    x = draw(N, T, D) if first else draw(T, N, D)

    def network(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given, flat = rest[: len(states)], list(rest[len(states) :])
        return f(
            x,
            given if isinstance(hx, tuple) else given[0],
            flat,
            biases,
            layers,
            0.5,
            False,
            both,
            first,
        )

    return with_gradients(network, x, *states, *weights(kind, layers, 1 + both, biases))


@every_kind
@pytest.mark.parametrize(
    ("layers", "biases", "both", "first"), list(product((1, 2), *[(False, True)] * 3))
)
def test_written_out_networks_equal_torch_networks(kind, layers, biases, both, first):
    ours = run(partial(written_out, kind), kind, layers, biases, both, first)
    close(ours, run(getattr(torch, kind.name), kind, layers, biases, both, first))


@every_kind
def test_dropout_acts_on_the_output_of_every_layer_but_the_last(kind):
    pattern = draw(T, N, kind.projection or H, seed=50)
    flat, hx, calls = weights(kind, 3, 1, True), initial(kind, 3), []

    def dropout(x: Tensor, p: float) -> Tensor:
        calls.append(p)
        return x * pattern

    ours = written_out(
        kind, draw(T, N, D), hx, flat, True, 3, 0.25, True, False, False, dropout=dropout
    )[0]
    y, size = draw(T, N, D), len(flat) // 3
    for i in range(3):
        h = tuple(s[i : i + 1] for s in hx) if isinstance(hx, tuple) else hx[i : i + 1]
        own = flat[i * size : (i + 1) * size]
        y = getattr(torch, kind.name)(
            y * pattern if i else y, h, own, True, 1, 0.0, False, False, False
        )[0]
    assert calls == [0.25, 0.25]
    close(ours, y)


@every_kind
@pytest.mark.parametrize(
    ("layers", "p", "train"), [(1, 0.5, True), (2, 0.0, True), (2, 0.5, False)]
)
def test_dropout_is_not_drawn_where_none_is_active(kind, layers, p, train):
    flat = weights(kind, layers, 1, True)
    written_out(
        kind, draw(T, N, D), initial(kind, layers), flat, True, layers, p, train, False, False
    )


def test_written_out_cells_equal_torch_cells():
    x, h, c = draw(N, D), draw(N, H, seed=1), draw(N, H, seed=2)
    for biases in (True, False):
        flat = weights(KINDS[0], 1, 1, biases)
        close(cells.lstm_cell(x, (h, c), *flat), torch.lstm_cell(x, (h, c), *flat))
        flat = weights(KINDS[2], 1, 1, biases)
        close(cells.gru_cell(x, h, *flat), torch.gru_cell(x, h, *flat))
        flat = weights(KINDS[3], 1, 1, biases)
        close(cells.rnn_tanh_cell(x, h, *flat), torch.rnn_tanh_cell(x, h, *flat))
        close(cells.rnn_relu_cell(x, h, *flat), torch.rnn_relu_cell(x, h, *flat))


class Recorded(TorchFunctionMode):
    """The arguments that a module hands to torch's recurrent function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
            self.args = args
        return func(*args, **(kwargs or {}))


MODULES = [
    nn.LSTM(D, H),
    nn.LSTM(D, H, proj_size=2),
    nn.GRU(D, H),
    nn.RNN(D, H),
    nn.RNN(D, H, nonlinearity="relu"),
]


@pytest.mark.parametrize("module", [m.double() for m in MODULES], ids=str)
@pytest.mark.parametrize("packed", [True, False])
def test_packed_sequences_are_told_by_their_arguments(module, packed):
    x = draw(T, N, D)
    with Recorded() as mode:
        module(pack_padded_sequence(x, torch.tensor([T, 2], device="cpu")) if packed else x)
    assert is_packed(mode.args) == packed


def whole(kind: Kind) -> Any:
    """A network of two layers and both directions, as a function of what a transform may map."""
    hx = initial(kind, 4)

    def network(x: Tensor, *flat: Tensor) -> Tensor:
        outputs = written_out(kind, x, hx, flat, True, 2, 0.0, True, True, False)
        return torch.cat([y.flatten() for y in outputs])

    return network


def rows(kind: Kind, n: int) -> list[Tensor]:
    return [
        torch.stack([x * (1 + 0.1 * i) for i in range(n)])
        for x in (draw(T, N, D), *weights(kind, 2, 2, True))
    ]


@every_kind
def test_mapped_rows_and_weights_equal_a_loop_over_them(kind):
    f, mapped = whole(kind), rows(kind, 3)
    slope = torch.func.grad(lambda *x: f(*x).cos().sum(), tuple(range(len(mapped))))
    for g in (lambda *x: (f(*x),), slope):
        looped = [g(*row) for row in zip(*mapped, strict=True)]
        close(torch.vmap(g)(*mapped), tuple(map(torch.stack, zip(*looped, strict=True))))


@pytest.mark.parametrize("kind", sampled(KINDS, one_in(2)), ids=name_of)
def test_first_and_second_derivatives_are_differences_in_both_modes(kind):
    leaves = tuple(x[0].requires_grad_() for x in rows(kind, 1))
    f = whole(kind)
    assert torch.autograd.gradcheck(
        f, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.compiles
@pytest.mark.parametrize("kind", sampled(KINDS, one_in(3)), ids=name_of)
def test_compiled_networks_equal_eager_ones(kind):
    torch._dynamo.reset()
    network = whole(kind)
    f = torch.func.grad(lambda *x: torch.vmap(network)(*x).cos().sum(), (0, 1, 2))
    close(torch.compile(f, fullgraph=True, backend="aot_eager")(*rows(kind, 2)), f(*rows(kind, 2)))
