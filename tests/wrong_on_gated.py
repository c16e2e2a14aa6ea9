"""For torch functions with a handler on gated parameters: calls that torch refuses.

A call gets a weight of shape (4, 6) and an input of shape (2, 6). A handler may not broadcast,
wrap around or drop what torch itself refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Wrong = Callable[[Any, Tensor, Tensor], Any]
"""From the function, the weight and the input."""

TOO_FAR = (2, -3)
"""The first dimensions on both sides that a matrix lacks."""


def _dims(*before: int, after: tuple[int, ...] = ()) -> list[Wrong]:
    """Calls with dimensions that the weight does not have."""
    return [lambda f, w, x, d=d: x @ f(w, *before, d, *after).t() for d in TOO_FAR]


def _image(x: Tensor, dims: int, channels: int = 6) -> Tensor:
    return x[:, :channels].reshape(2, channels, *(1,) * dims)


def _kernel(w: Tensor, dims: int) -> Tensor:
    return w.reshape(*w.shape, *(1,) * dims)


def _convolutions(dims: int) -> list[Wrong]:
    def settings(*given: Any) -> Wrong:
        return lambda f, w, x: f(_image(x, dims), _kernel(w, dims), None, *given)

    return [
        lambda f, w, x: f(_image(x, dims, 1), _kernel(w, dims)),
        lambda f, w, x: f(_image(x, dims, 5), _kernel(w, dims)),
        lambda f, w, x: f(_image(x, dims), _kernel(w, dims), x.new_ones(1)),
        lambda f, w, x: f(_image(x, dims), _kernel(w, dims), x.new_ones(4, 1)),
        lambda f, w, x: f(_image(x, dims), _kernel(w, dims - 1) if dims > 1 else w),
        settings((1,) * (dims + 1)),
        settings(0),
        settings(1, "full"),
        settings(2, "same"),
        settings(1, -1),
        settings(1, 0, 0),
        settings(1, 0, 1, 4),
    ]


def _transposed(dims: int) -> list[Wrong]:
    return [
        lambda f, w, x: f(_image(x, dims, 1), _kernel(w, dims)),
        lambda f, w, x: f(_image(x, dims, 4), _kernel(w, dims), x.new_ones(1)),
        lambda f, w, x: f(_image(x, dims, 4), _kernel(w, dims), None, 1, 0, 1),
        lambda f, w, x: f(_image(x, dims, 4), _kernel(w, dims), None, 0),
    ]


def _network(gates: int, hidden: int, states: int = 1) -> list[Wrong]:
    """A recurrent network on too few columns, on too many states, and without its biases."""

    def call(
        f: Any, w: Tensor, x: Tensor, columns: int = 6, cells: int = 1, biases: bool = False
    ) -> Any:
        rows = gates * hidden
        state = x.new_zeros(cells, 1, hidden)
        hx = state if states == 1 else (state,) * states
        weights = (w[:rows], w[:rows, :hidden])
        given = (x[:, None, :columns], hx, weights, biases)
        return f(*given, 1, 0.0, False, False, False)[0]

    return [
        lambda f, w, x: call(f, w, x, columns=1),
        lambda f, w, x: call(f, w, x, columns=5),
        lambda f, w, x: call(f, w, x, cells=2),
        lambda f, w, x: call(f, w, x, biases=True),
    ]


def _cell(gates: int, hidden: int, states: int = 1) -> list[Wrong]:
    def call(f: Any, w: Tensor, x: Tensor, rows: int, columns: int = 6) -> Any:
        state = x.new_zeros(rows, hidden)
        hx = state if states == 1 else (state,) * states
        weights = (w[: gates * hidden], w[: gates * hidden, :hidden])
        return f(x[:, :columns], hx, *weights)

    return [
        lambda f, w, x: call(f, w, x, rows=1),
        lambda f, w, x: call(f, w, x, rows=3),
        lambda f, w, x: call(f, w, x, rows=2, columns=1),
    ]


def _attention(f: Any, w: Tensor, x: Tensor) -> Any:
    """Two heads for three features."""
    projection = w[:3, :3].repeat(3, 1)
    q = x[:, None, :3]
    given = (q, q, q, 3, 2, projection, None, None, None, False, 0.0, w[:3, :3], None)
    return f(*given, training=False)[0]


_PRODUCT: list[Wrong] = [lambda f, w, x: f(x, w), lambda f, w, x: f(x[:, :1], w.t())]
_MATRICES: list[Wrong] = [
    *_PRODUCT,
    lambda f, w, x: f(x[None], w.t()),
    lambda f, w, x: f(x[0], w.t()),
    lambda f, w, x: f(w, x[0]),
]
_VECTOR: list[Wrong] = [lambda f, w, x: f(w, x.t()), lambda f, w, x: f(w, x[0, :1])]
_ADDED: list[Wrong] = [
    lambda f, w, x: f(x.new_ones(3, 2, 4), x, w.t()),
    lambda f, w, x: f(x.new_ones(3), x, w.t()),
    lambda f, w, x: f(x.new_ones(4), x[None], w.t()),
    lambda f, w, x: f(x.new_ones(4), x[:, :1], w.t()),
]
_ADDED_VECTOR: list[Wrong] = [
    lambda f, w, x: f(x.new_ones(2, 4), w, x[0]),
    lambda f, w, x: f(x[0, :4], w, x.t()),
]
_BILINEAR: list[Wrong] = [
    lambda f, w, x: f(x[:, :1], x[:, :3], w.reshape(4, 2, 3)),
    lambda f, w, x: f(x, x[:, :1], w.reshape(4, 2, 3)),
    lambda f, w, x: f(x[:1, :2], x[:, :3], w.reshape(4, 2, 3)),
    lambda f, w, x: f(x[:, :2], x[:, :3], w.reshape(4, 2, 3), x.new_ones(3, 2, 4)),
]
_EQUATION = "...i,oij,...j->...o"
_SPLITS: list[Wrong] = [
    lambda f, w, x: f(w, [1, 2]),
    lambda f, w, x: f(w, [1, 2, 4]),
    lambda f, w, x: f(w, [5, -1]),
    lambda f, w, x: f(w, -1),
    lambda f, w, x: f(w, 0),
    *[lambda f, w, x, d=d: f(w, 2, d) for d in TOO_FAR],
]
_CHUNKS: list[Wrong] = [
    lambda f, w, x: f(w, 0),
    lambda f, w, x: f(w, -2),
    *[lambda f, w, x, d=d: f(w, 2, d) for d in TOO_FAR],
]
_NARROW: list[Wrong] = [
    *_dims(after=(0, 2)),
    lambda f, w, x: f(w, 0, 3, 2),
    lambda f, w, x: f(w, 0, 3, -1),
    lambda f, w, x: f(w, 0, -5, 1),
]
_SELECT: list[Wrong] = [
    *_dims(after=(0,)),
    lambda f, w, x: f(w.reshape(4, 2, 3), 0, 4),
    lambda f, w, x: f(w.reshape(4, 2, 3), 5, 1),
    lambda f, w, x: f(w.reshape(4, 2, 3), 0, -5),
]
_FLATTEN: list[Wrong] = [
    *_dims(0),
    lambda f, w, x: f(w.reshape(4, 2, 3), 2, 1),
    lambda f, w, x: f(w.reshape(4, 2, 3), -4, 1),
]
_PERMUTE: list[Wrong] = [
    lambda f, w, x: f(w, (5, 0)),
    lambda f, w, x: f(w, (-3, 0)),
    lambda f, w, x: f(w, (1,)),
    lambda f, w, x: f(w, (1, 1)),
]
_UNSQUEEZE: list[Wrong] = [lambda f, w, x, d=d: f(w, d) for d in (3, -4)]
_SIZES: list[Wrong] = [
    lambda f, w, x: f(w, (5, 5)),
    lambda f, w, x: f(w, (-1, -1)),
    lambda f, w, x: f(w, (-2, 12)),
]
_TIMES: list[Wrong] = [
    lambda f, w, x: f(w, x.new_ones(3)),
    lambda f, w, x: f(w, x.new_ones(5, 6)),
]
_MORE: list[Wrong] = [lambda f, w, x: f(w, 3)]
_NOT_A_MATRIX: list[Wrong] = [lambda f, w, x: f(w.reshape(4, 2, 3))]
_ONE_ROW: list[Wrong] = [lambda f, w, x: f(w[0])]

WRONG: dict[str, list[Wrong]] = {
    "F: linear": [
        *_PRODUCT[1:],
        lambda f, w, x: f(x[:, :1], w),
        lambda f, w, x: f(x[:, :5], w),
        lambda f, w, x: f(x, w, x.new_ones(3)),
        lambda f, w, x: f(x, w, x.new_ones(3, 2, 4)),
    ],
    "F: embedding": [
        lambda f, w, x: f(torch.tensor([4]), w),
        lambda f, w, x: f(torch.tensor([-1]), w),
        lambda f, w, x: f(torch.tensor([1]), w, 9),
        lambda f, w, x: f(torch.tensor([1]), w, -5),
        lambda f, w, x: f(x, w),
    ],
    "F: multi_head_attention_forward": [_attention],
    "torch: bilinear": _BILINEAR,
    "torch: einsum": [
        lambda f, w, x: f(_EQUATION, x, w.reshape(4, 2, 3), x[:, :1]),
        lambda f, w, x: f(_EQUATION, x[:, :2], w, x[:, :3]),
    ],
    **{f"Tensor: {name}": _PRODUCT for name in ("matmul", "__matmul__")},
    "torch: matmul": _PRODUCT,
    "Tensor: __rmatmul__": [lambda f, w, x: f(w, x), lambda f, w, x: f(w.t(), x[:, :1])],
    "Tensor: mT": _ONE_ROW,
    "Tensor: __getitem__": [
        lambda f, w, x: f(w, 4),
        lambda f, w, x: f(w, -5),
        lambda f, w, x: f(w, (0, 0, 0)),
        lambda f, w, x: f(w, slice(None, None, -1)),
        lambda f, w, x: f(w, slice(None, None, 0)),
        lambda f, w, x: f(w.reshape(4, 2, 3), 4),
    ],
    "Tensor: __neg__": [lambda f, w, x: f(w > 0)],
    "Tensor: contiguous": _MORE,
    "Tensor: view": [*_SIZES, lambda f, w, x: f(w, "a")],
    **{f"torch: conv{d}d": _convolutions(d) for d in (1, 2, 3)},
    **{f"torch: conv_transpose{d}d": _transposed(d) for d in (1, 2, 3)},
    "torch: lstm": _network(4, 1, states=2),
    "torch: gru": _network(3, 1),
    **{f"torch: rnn_{name}": _network(1, 4) for name in ("tanh", "relu")},
    "torch: lstm_cell": _cell(4, 1, states=2),
    "torch: gru_cell": _cell(3, 1),
    **{f"torch: rnn_{name}_cell": _cell(1, 4) for name in ("tanh", "relu")},
}
_BOTH: dict[str, list[Wrong]] = {
    "mm": _MATRICES,
    "mv": _VECTOR,
    "addmm": _ADDED,
    "addmv": _ADDED_VECTOR,
    "mul": _TIMES,
    "multiply": _TIMES,
    "neg": _MORE,
    "negative": _MORE,
    "transpose": _dims(0),
    "swapaxes": _dims(0),
    "permute": _PERMUTE,
    "t": _NOT_A_MATRIX,
    "chunk": _CHUNKS,
    "split": _SPLITS,
    "narrow": _NARROW,
    "select": _SELECT,
    "flatten": _FLATTEN,
    "unsqueeze": _UNSQUEEZE,
    "squeeze": _dims(),
    "reshape": _SIZES,
    "__mul__": _TIMES,
    "__rmul__": _TIMES,
}
WRONG |= {f"{place}: {name}": w for name, w in _BOTH.items() for place in ("Tensor", "torch")}
