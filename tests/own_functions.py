"""Cases for torch functions that make tensors, read values, or depend on what a row is.

A case gets values of shape (1, 2, 3) between 0 and 1. It gives in a gated call, and in rows, what
it gives in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Case = Callable[[Any, Tensor], Tensor]
"""From the function and the values to a tensor."""


def _filled(*args: Any, **named: Any) -> Case:
    """A new tensor, with a row's values written into it in two ways."""

    def case(f: Any, h: Tensor) -> Tensor:
        made = f(*args, **named, dtype=h.dtype)
        return _written(made, h)

    return case


def _written(made: Tensor, h: Tensor) -> Tensor:
    made[:, 1:] = 0.25
    made[:, :1] = h[0, :2, :1].reshape(made[:, :1].shape)
    made += h.sum()
    return made


def _of(*args: Any) -> Case:
    return lambda f, h: _written(f(h, *args), h[0, :2])


def _like(*args: Any) -> Case:
    return lambda f, h: _written(f(h[0], *args), h)


FRESH: dict[str, Case] = {
    "Tensor: clone": lambda f, h: _written(f(torch.ones(2, 3, dtype=h.dtype)), h),
    "torch: clone": lambda f, h: _written(f(torch.ones(2, 3, dtype=h.dtype)), h),
    "Tensor: new_empty": _like((2, 3)),
    "Tensor: new_full": _like((2, 3), 1.5),
    "Tensor: new_ones": _like((2, 3)),
    "Tensor: new_tensor": _like([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "Tensor: new_zeros": _like((2, 3)),
    "torch: empty": _filled(2, 3),
    "torch: empty_like": _like(),
    "torch: eye": _filled(2, 3),
    "torch: full": _filled((2, 3), 1.5),
    "torch: full_like": _like(1.5),
    "torch: ones": _filled(2, 3),
    "torch: ones_like": _like(),
    "torch: tensor": _filled([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "torch: zeros": _filled(2, 3),
    "torch: zeros_like": _like(),
}

_SHARED = torch.tensor([[3.0, 0.0, 3.0], [0.0, 1.0, 2.0]], dtype=torch.float64)


def _number(*args: Any) -> Case:
    """The number that a function reads, for values that all rows share."""
    return lambda f, h: h * float(f(torch.tensor(2, device=h.device), *args))


def _places(f: Any, h: Tensor) -> Tensor:
    return h.sum() + f(_SHARED).to(h.dtype)


def _truth(f: Any, h: Tensor) -> Tensor:
    return h * 2 if f(_SHARED.sum()) else -h


def _put(f: Any, h: Tensor) -> Tensor:
    return f(h.clone(), (torch.tensor([0]), torch.tensor([1])), h[0, 0].flip(-1))


def _set(f: Any, h: Tensor) -> Tensor:
    target = h.clone()
    f(target, (0, _SHARED > 0), h.sum())
    return target


def _selected(f: Any, h: Tensor) -> Tensor:
    return f(h[0], _SHARED > 0)


def _close(f: Any, h: Tensor) -> Tensor:
    return h * 2 if f(_SHARED, _SHARED + 1e-12) else -h


def _same(f: Any, h: Tensor) -> Tensor:
    return h * 2 if f(_SHARED, _SHARED.clone()) else -h


def _counts(f: Any, h: Tensor) -> Tensor:
    return h.sum() + f(_SHARED.flatten().long()).to(h.dtype)


READS: dict[str, Case] = {
    "Tensor: __array__": lambda f, h: h * torch.as_tensor(f(_SHARED[0].cpu())).to(h),
    "Tensor: __bool__": _truth,
    "Tensor: __complex__": lambda f, h: h * f(torch.tensor(2.0 + 1j)).imag * 3,
    "Tensor: __contains__": lambda f, h: h * 2 if f(_SHARED, 3.0) else -h,
    "Tensor: __float__": _number(),
    "Tensor: __format__": _number(".0f"),
    "Tensor: __index__": _number(),
    "Tensor: __int__": _number(),
    "Tensor: __setitem__": _set,
    "Tensor: item": _number(),
    "Tensor: numpy": lambda f, h: h * torch.as_tensor(f(_SHARED[0].cpu())).to(h),
    "Tensor: tolist": lambda f, h: h * sum(f(_SHARED[0])),
    "Tensor: unique_consecutive": _counts,
    "torch: unique_consecutive": _counts,
    "torch: _nested_tensor_from_mask_left_aligned": lambda f, h: (
        h * (2 if f(h, torch.tensor([[False, True]])) else 1)
    ),
    "torch: where": lambda f, h: h.sum() + f(_SHARED)[1].to(h.dtype),
}
for _place in ("Tensor", "torch"):
    READS |= {
        f"{_place}: allclose": _close,
        f"{_place}: argwhere": _places,
        f"{_place}: bincount": _counts,
        f"{_place}: equal": _same,
        f"{_place}: index_put": _put,
        f"{_place}: index_put_": _put,
        f"{_place}: is_nonzero": _truth,
        f"{_place}: masked_select": _selected,
        f"{_place}: nonzero": _places,
        f"{_place}: unique": _counts,
    }


def _attention(f: Any, h: Tensor) -> Tensor:
    return f(h, h.flip(-1), h.exp(), is_causal=True)


def _bags(f: Any, h: Tensor) -> Tensor:
    words = torch.tensor([[0, 1], [1, 1]])
    return f(words, h[0], mode="sum", per_sample_weights=h[0, :, :2])


def _norm(f: Any, h: Tensor) -> Tensor:
    return f(h[0], h[0, :, :1], 0)


WRITTEN_OUT: dict[str, Case] = {
    "F: embedding_bag": _bags,
    "F: scaled_dot_product_attention": _attention,
    "torch: _weight_norm": _norm,
}


def _statistics(h: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linspace(0.1, 0.3, 2, dtype=h.dtype), torch.linspace(0.5, 1.5, 2, dtype=h.dtype)


def _batch(f: Any, h: Tensor) -> Tensor:
    return f(h, *_statistics(h), torch.full((2,), 2.0, dtype=h.dtype), None, False, 0.1, 1e-5)


def _torch_batch(*settings: Any) -> Case:
    def case(f: Any, h: Tensor) -> Tensor:
        out = f(h, torch.full((2,), 2.0, dtype=h.dtype), None, *_statistics(h), *settings)
        return out[0] if isinstance(out, tuple) else out

    return case


def _instances(f: Any, h: Tensor) -> Tensor:
    return f(h, weight=torch.full((2,), 2.0, dtype=h.dtype))


def _rms(f: Any, h: Tensor) -> Tensor:
    return f(h, (3,), torch.full((3,), 2.0, dtype=h.dtype), 1e-6)


def _packed(f: Any, h: Tensor) -> Tensor:
    return f(h, torch.tensor([2], device="cpu"), True)[0]


OF_ROWS: dict[str, Case] = {
    "F: batch_norm": _batch,
    "F: instance_norm": _instances,
    "F: rms_norm": _rms,
    "Tensor: data": lambda f, h: h * f(h),
    "Tensor: is_contiguous": lambda f, h: h * 2 if f(h) else h,
    "torch: _pack_padded_sequence": _packed,
    "torch: batch_norm": _torch_batch(False, 0.1, 1e-5, False),
    "torch: native_batch_norm": _torch_batch(False, 0.1, 1e-5),
    "torch: _native_batch_norm_legit": _torch_batch(False, 0.1, 1e-5),
    "torch: rms_norm": _rms,
}


def _slope(f: Any, h: Tensor) -> Tensor:
    x = h.detach().clone().requires_grad_()
    y = x.square().sum()
    if f is torch.autograd.grad:
        return f(y, x)[0] * h
    f(y)
    assert x.grad is not None
    return x.grad * h


BACKWARDS: dict[str, Case] = {
    "Tensor: backward": _slope,
    "autograd: backward": _slope,
    "autograd: grad": _slope,
}

CASES: dict[str, Case] = {**FRESH, **READS, **WRITTEN_OUT, **OF_ROWS, **BACKWARDS}
"""By the label of their function."""
