"""``x[index] = value`` inside a row writes where a plain call writes, whatever the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

ALL = slice(None)
INDICES: dict[str, Callable[[Tensor], Any]] = {
    "first": lambda i: i,
    "second": lambda i: (ALL, i),
    "third": lambda i: (ALL, ALL, i),
    "last": lambda i: (..., i),
    "behind a number": lambda i: (0, ALL, i),
    "two at once": lambda i: (ALL, i, i),
    "two apart": lambda i: (i, ALL, i),
    "crossed": lambda i: (ALL, i[:, None], i),
    "beside a slice": lambda i: (ALL, slice(0, 2), i),
    "with a new dimension": lambda i: (ALL, None, i),
    "one place": lambda i: (ALL, i[0]),
}
VALUES: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda old: 0.5,
    "what was there, doubled": lambda old: 2 * old,
    "a tensor that all rows share": lambda old: (
        torch.arange(float(old.numel())).view(old.shape).double()
    ),
    "a last dimension that broadcasts": lambda old: old[..., :1],
    "a leading dimension too many": lambda old: old[None] + 1,
}


class _Writes(nn.Module):
    def __init__(self, index: Any, value: Any, by_row: bool) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(3, 2 * 2 * 2), nn.Linear(2, 1)
        self.index, self.value, self.by_row = index, value, by_row

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).reshape(-1, 2, 2, 2)
        h = rows[0].clone()
        order = h.flatten()[:2].argsort() if self.by_row else torch.tensor([1, 0])
        index = self.index(order)
        h[index] = self.value(h[index])
        return self.out(h)[None]


def takes_one_place() -> bool:
    """Whether this torch's vmap indexes by a single number of a row, as torch 2.1's does not."""
    take: Callable[[Tensor, Tensor], Tensor] = Tensor.__getitem__
    try:
        torch.vmap(take)(torch.zeros(2, 3), torch.tensor([0, 1]))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("by_row", [True, False], ids=["own indices", "made in forward"])
def test_a_row_writes_at_an_index_what_a_plain_call_writes(
    index: Any, value: Any, by_row: bool
) -> None:
    if index is INDICES["one place"] and by_row and not takes_one_place():
        pytest.skip("this torch's vmap does not index by a single number of a row")
    fn, params, buffers = l0.make_functional(_Writes(index, value, by_row).double())
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, keys = l0.init_gates(l0.random.key(0), spec), l0.random.split(l0.random.key(1), 5)
    x = l0.random.normal(l0.random.key(2), (5, 3)).double()
    for parameter in params.values():
        parameter.requires_grad_()
    apply = l0.gated(fn, spec)
    rows = l0.per_example(apply)(params, gates, buffers, keys, x)
    plain = [apply(params, gates, buffers, key, x[i : i + 1]) for i, key in enumerate(keys)]
    together = torch.cat(plain)
    torch.testing.assert_close(rows, together)
    tensors = list(params.values())
    slopes = torch.autograd.grad(rows.square().sum(), tensors)
    expected = torch.autograd.grad(together.square().sum(), tensors)
    torch.testing.assert_close(slopes, expected)
