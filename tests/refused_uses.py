"""For torch functions with a way of their own: a use that each refuses, and words of the refusal.

A use gets the function and a row's values, shape (1, 2, 3). It is refused in rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from steps import hides_indexing
from torch import Tensor

Use = tuple[Callable[[Any, Tensor], Any], str]

_DIFFERS = "'{name}' needs one value for the whole call .*differs from row to row"
_SIZE = "number that differs from row to row|needs one value|Python number"


def _read(*args: Any) -> Use:
    """The function on a value that differs from row to row."""
    return (lambda f, h: f(h.sum(), *args)), _DIFFERS


def _sized(*args: Any) -> Use:
    """A new tensor whose size is a value of the row."""
    return (lambda f, h: f((h.sum() * 9).long(), *args)), _SIZE


def _new_sized(*args: Any) -> Use:
    return (lambda f, h: f(h, ((h.sum() * 9).long(),), *args)), _SIZE


def _mixed(f: Any, h: Tensor) -> Any:
    """Numbers of a row in a list."""
    return f([[h.sum(), h.sum()]])


FRESH: dict[str, Use] = {
    "Tensor: new_tensor": (lambda f, h: f(h, [h.sum(), 1.0]), "'new_tensor' makes a constant"),
    "torch: tensor": (_mixed, "'tensor' makes a constant of numbers .*differs from row to row"),
    **dict.fromkeys(["torch: empty", "torch: ones", "torch: zeros", "torch: eye"], _sized()),
    "torch: full": (lambda f, h: f(((h.sum() * 9).long(),), 1.0), _SIZE),
    **dict.fromkeys(["Tensor: new_empty", "Tensor: new_ones", "Tensor: new_zeros"], _new_sized()),
    "Tensor: new_full": _new_sized(1.0),
}

_AT_INDEX = "'{name}' writes values of single rows .*all rows share"
# A torch that hides x[0] = y leaves the words to vmap's error, without the name.
_AT_ITEM = "in place writes the values of single rows" if hides_indexing() else _AT_INDEX


def _put_into_shared(f: Any, h: Tensor) -> Any:
    return f(torch.arange(3.0, dtype=h.dtype), (torch.tensor([0]),), h[0, 0, :1])


def _at_mask(f: Any, h: Tensor) -> Any:
    return f(h, (h > 0.5,), torch.ones(3, dtype=h.dtype))


def _set_into_shared(f: Any, h: Tensor) -> Any:
    return f(torch.arange(3.0, dtype=h.dtype), 0, h[0, 0, 0])


_ONE = torch.ones(())


def _above(h: Tensor) -> Tensor:
    """Whether a row's sum is above 3.08: so it is in some rows."""
    return h.sum() > 3.08


READS: dict[str, Use] = {
    **{f"Tensor: __{n}__": _read() for n in ("array", "complex", "float", "int")},
    "Tensor: __bool__": ((lambda f, h: f(_above(h))), _DIFFERS),
    "Tensor: __format__": _read(".1f"),
    "Tensor: __index__": ((lambda f, h: f((h.sum() * 9).long())), _DIFFERS),
    "Tensor: __contains__": ((lambda f, h: f(_above(h), True)), _DIFFERS),
    "Tensor: __setitem__": (_set_into_shared, _AT_ITEM),
    **{f"Tensor: {n}": _read() for n in ("item", "tolist", "numpy")},
    "torch: where": ((lambda f, h: f(h > 0.5)), _DIFFERS),
}
for _place in ("Tensor", "torch"):
    READS |= {
        f"{_place}: allclose": ((lambda f, h: f(_above(h) * 1.0, _ONE)), _DIFFERS),
        f"{_place}: equal": ((lambda f, h: f(_above(h) * 1.0, _ONE)), _DIFFERS),
        f"{_place}: argwhere": ((lambda f, h: f(h > 0.5)), _DIFFERS),
        f"{_place}: nonzero": ((lambda f, h: f(h > 0.5)), _DIFFERS),
        f"{_place}: bincount": ((lambda f, h: f((h[0, 0] * 9).long())), _DIFFERS),
        f"{_place}: index_put": (_at_mask, _DIFFERS),
        f"{_place}: index_put_": (_put_into_shared, _AT_INDEX),
        f"{_place}: is_nonzero": ((lambda f, h: f(_above(h))), _DIFFERS),
        f"{_place}: masked_select": ((lambda f, h: f(h, h > 0.5)), _DIFFERS),
        f"{_place}: unique": ((lambda f, h: f((h * 9).long())), _DIFFERS),
        f"{_place}: unique_consecutive": ((lambda f, h: f((h * 9).long())), _DIFFERS),
    }


def _running(h: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(2, dtype=h.dtype), torch.ones(2, dtype=h.dtype)


def _instances(f: Any, h: Tensor) -> Any:
    return f(h, *_running(h), use_input_stats=True)


def _bags(f: Any, h: Tensor) -> Any:
    return f(torch.tensor([0, 1, 1]), h[0], torch.tensor([0, 2]))


def _packed(f: Any, h: Tensor) -> Any:
    return f(h, torch.tensor([2], device="cpu"), True)[0]


def _slope(f: Any, h: Tensor) -> Any:
    x = h.clone().detach().requires_grad_()
    return f(x.square().sum(), x)


BACKWARD = ("Tensor: backward", "autograd: backward", "autograd: grad")
OTHERS: dict[str, Use] = {
    "F: embedding_bag": (_bags, "An EmbeddingBag over rows takes bags of one size"),
    "F: scaled_dot_product_attention": (
        (lambda f, h: f(h, h[..., :2], h)),
        "scaled_dot_product_attention|mat1|size|shape",
    ),
    "torch: _weight_norm": ((lambda f, h: f(h[0], h[0, :, :1], 5)), "'_weight_norm' takes a dim"),
    "F: batch_norm": (
        (lambda f, h: f(h[:, :, :1], None, None, training=True)),
        "BatchNorm in training mode",
    ),
    "F: instance_norm": (_instances, "InstanceNorm with track_running_stats in training mode"),
    "F: rms_norm": ((lambda f, h: f(h, (2,))), "normalized_shape"),
    "torch: rms_norm": ((lambda f, h: f(h, (2,))), "normalized_shape"),
    "torch: _pack_padded_sequence": (_packed, "A packed sequence holds many rows"),
    "torch: batch_norm": (
        (lambda f, h: f(h, None, None, None, None, True, 0.1, 1e-5, False)),
        "BatchNorm in training mode",
    ),
    "torch: native_batch_norm": (
        (lambda f, h: f(h, None, None, *_running(h), True, 0.1, 1e-5)[0]),
        "'native_batch_norm' in training mode",
    ),
    "torch: _native_batch_norm_legit": (
        (lambda f, h: f(h, None, None, True, 0.1, 1e-5)[0]),
        "'_native_batch_norm_legit' in training mode",
    ),
    **dict.fromkeys(
        BACKWARD,
        (_slope, r"'requires_grad_' .*Differentiate with torch\.func\.grad inside the module"),
    ),
}

REFUSED_USES: dict[str, Use] = {**FRESH, **READS, **OTHERS}
"""By the label of the function; ``{name}`` stands for the function's name."""

_WORDS_OF_USES = {
    _DIFFERS: "a value that differs from row to row",
    _SIZE: "a size that differs from row to row",
    **dict.fromkeys([_AT_INDEX, _AT_ITEM], "a row's values into a tensor that all rows share"),
}
_OTHERS = {
    "Tensor: new_tensor": "a list of numbers of single rows",
    "torch: tensor": "a list of numbers of single rows",
    "F: embedding_bag": "bags with offsets, in rows",
    "F: scaled_dot_product_attention": "queries and keys of unlike size",
    "torch: _weight_norm": "a dimension that the weight lacks",
    "F: batch_norm": "statistics of a batch that is cut into chunks",
    "torch: batch_norm": "statistics of a batch that is cut into chunks",
    "torch: native_batch_norm": "statistics of single rows",
    "torch: _native_batch_norm_legit": "statistics of single rows",
    "F: instance_norm": "running statistics in rows",
    "F: rms_norm": "sizes that the input lacks",
    "torch: rms_norm": "sizes that the input lacks",
    "torch: _pack_padded_sequence": "a packed sequence in rows",
    **dict.fromkeys(BACKWARD, "a graph of its own in rows"),
}
USES: dict[str, str] = {
    label: _WORDS_OF_USES.get(words, _OTHERS.get(label, ""))
    for label, (_, words) in REFUSED_USES.items()
}
"""What each use is, for the page."""

_LIKE = "It makes a tensor of another's size, and no value is read."
NEVER: dict[str, str] = {
    **dict.fromkeys(["Tensor: clone", "torch: clone", "torch: empty_like"], _LIKE),
    **dict.fromkeys(["torch: full_like", "torch: ones_like", "torch: zeros_like"], _LIKE),
    "Tensor: T": "A weight's two dimensions in the other order: it takes no argument.",
    "Tensor: data": "A row's tensor without its graph.",
    "Tensor: is_contiguous": "A question about the layout in memory.",
    "torch: _nested_tensor_from_mask_left_aligned": "Its answer is no, for every mask.",
}
"""Functions that refuse nothing, and why."""
