"""Looking up rows of a gated table: their gates are looked up with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.engine.parameter import EntryGates, GatedParameter


def embedding(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """``F.embedding``."""
    if not isinstance(weight, GatedParameter) or scale_grad_by_freq or sparse or _by_sums(weight):
        return NotImplemented
    rows, columns = weight.scales
    vectors = F.embedding(input, weight.weight)
    if rows is not None:
        vectors = vectors * F.embedding(input, rows.unsqueeze(-1))
    vectors = vectors if columns is None else vectors * columns
    vectors = (
        vectors
        if weight.entry_gates is None
        else vectors * _looked_up_masks(input, weight.entry_gates).to(vectors.dtype)
    )
    if padding_idx is None:
        return vectors
    # Padding teaches nothing, neither the table nor its gates; torch's own rule is lost where vmap
    # maps the table.
    padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, vectors.detach(), vectors)


def _by_sums(weight: GatedParameter) -> bool:
    return weight.entry_gates is not None and (
        weight.entry_gates.turned or weight.entry_gates.uses is not None
    )


def _looked_up_masks(input: Tensor, gates: EntryGates) -> Tensor:
    """The masks of the rows that are looked up, and of no others."""
    size = gates.log_alpha.shape[1]
    start = gates.first + input * size
    aligned = size % 4 == 0 and gates.first % 4 == 0
    calls = size // 4 if aligned else size // 4 + 2
    call = (start // 4).unsqueeze(-1) + torch.arange(calls, device=input.device)
    u = random.uniforms_at(gates.key, call).flatten(-2)
    if not aligned:
        u = u.gather(-1, (start % 4).unsqueeze(-1) + torch.arange(size, device=input.device))
    return gates.distribution.quantile(u, F.embedding(input, gates.log_alpha))


HANDLERS: dict[Any, Callable[..., Any]] = {F.embedding: embedding}
