"""Lookups in a gated table: gates are drawn only for the rows that are looked up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.engine.entry_gates import WORDS_PER_CALL, EntryGates
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter

HANDLERS = HandlerTable()


@HANDLERS.runs_for(F.embedding)
def embedding(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """``F.embedding`` with a gated table."""
    if not isinstance(weight, GatedParameter) or scale_grad_by_freq or sparse:
        return NotImplemented
    if not _can_look_up(weight.entry_gates):
        return NotImplemented
    words = weight.shape[0]
    if padding_idx is not None and not -words <= padding_idx < words:
        return NotImplemented
    vectors = _lookup(input, weight)
    if padding_idx is None:
        return vectors
    # Padding gives no gradient, neither to the table nor to its gates. torch's own padding_idx has
    # no effect where vmap maps the table.
    padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, vectors.detach(), vectors)


def _can_look_up(gates: EntryGates | None) -> bool:
    return gates is None or not (gates.turned or gates.local_reparam)


def _lookup(input: Tensor, table: GatedParameter) -> Tensor:
    row_scale, column_scale = table.scales
    vectors = F.embedding(input, table.weight)
    if row_scale is not None:
        vectors = vectors * F.embedding(input, row_scale.unsqueeze(-1))
    if column_scale is not None:
        vectors = vectors * column_scale
    if table.entry_gates is not None:
        vectors = vectors * _masks_at(input, table.entry_gates).to(vectors.dtype)
    return vectors


def _masks_at(input: Tensor, gates: EntryGates) -> Tensor:
    """The masks for the rows at these indices, shape ``(*input, row size)``."""
    start = gates.first + input * gates.log_alpha.shape[1]
    u = _uniforms_from(start, gates)
    return gates.distribution.quantile(u, F.embedding(input, gates.log_alpha))


def _uniforms_from(start: Tensor, gates: EntryGates) -> Tensor:
    """The key's stream from each start on, one element for each gate in a row.

    The generator makes four elements in a call. If a row starts inside a call, extra calls cover
    both ends, and the row's elements are gathered from all of them.
    """
    size = gates.log_alpha.shape[1]
    aligned = size % WORDS_PER_CALL == 0 and gates.first % WORDS_PER_CALL == 0
    calls = size // WORDS_PER_CALL if aligned else size // WORDS_PER_CALL + 2
    first_call = (start // WORDS_PER_CALL).unsqueeze(-1)
    call = first_call + torch.arange(calls, device=start.device)
    u = random.uniforms_at(gates.key, call).flatten(-2)
    if aligned:
        return u
    skip = (start % WORDS_PER_CALL).unsqueeze(-1)
    wanted = skip + torch.arange(size, device=start.device)
    return u.gather(-1, wanted)
