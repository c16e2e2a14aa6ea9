"""Modules of which torch has none: attention with fewer heads than its width has room for,
recurrent layers of unequal width.

Both keep the parameter names of the modules that they stand for, and need torch only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.Module):
    """What is left of an ``nn.MultiheadAttention`` without some of its heads; called in the same
    way.

    Its parameters have the same names, the packed projection with rows for the heads that are
    left.
    """

    num_heads: int
    head_dim: int
    batch_first: bool
    dropout: float
    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: nn.Linear

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention, with the arguments and results of ``nn.MultiheadAttention``."""
        batched, time_first = query.dim() == 3, query.dim() == 3 and not self.batch_first
        inputs = [x.transpose(0, 1) if time_first else x for x in (query, key, value)]
        q, k, v = (
            self._heads(x if batched else x.unsqueeze(0), part) for part, x in enumerate(inputs)
        )
        scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
        for mask in self._masks(attn_mask, key_padding_mask, scores):
            scores = scores + mask
        weights = scores.softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        y = cast("Tensor", self.out_proj((weights @ v).transpose(1, 2).flatten(2)))
        y = y if batched else y.squeeze(0)
        y = y.transpose(0, 1) if time_first else y
        if not need_weights:
            return y, None
        shown = weights.mean(dim=1) if average_attn_weights else weights
        return y, shown if batched else shown.squeeze(0)

    def _heads(self, x: Tensor, part: int) -> Tensor:
        rows = slice(
            part * self.num_heads * self.head_dim, (part + 1) * self.num_heads * self.head_dim
        )
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        y = F.linear(x, self.in_proj_weight[rows], bias)
        return y.reshape(*y.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _masks(self, attn: Tensor | None, padding: Tensor | None, scores: Tensor) -> list[Tensor]:
        n, _, length, keys = scores.shape
        found: list[Tensor] = []
        if attn is not None:
            if attn.dim() == 3 and attn.shape[0] != n * self.num_heads:
                raise ValueError(
                    f"attn_mask of shape {tuple(attn.shape)} has a mask for every head, and "
                    f"{self.num_heads} heads are left; "
                    "give one of shape (L, S), or masks for the heads that are left."
                )
            found.append(
                attn if attn.dim() == 2 else attn.reshape(n, self.num_heads, length, keys)
            )
        if padding is not None:
            found.append(padding.reshape(-1, 1, 1, keys))
        return [_as_scores(mask, scores) for mask in found]

    def extra_repr(self) -> str:
        """Heads and their size."""
        return (
            f"num_heads={self.num_heads}, head_dim={self.head_dim}, batch_first={self.batch_first}"
        )


def _as_scores(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))


class UnequalRecurrent(nn.Module):
    """What is left of an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` whose layers or directions have
    lost unequal numbers of units.

    Called as the module that it stands for, with the same parameter names. States of layers have
    different widths, so that they come and go as tuples, one member a layer and direction, instead
    of stacked.
    """

    mode: str
    num_layers: int
    hidden_sizes: tuple[int, ...]
    proj_sizes: tuple[int, ...]
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Outputs, and the final states of every layer and direction."""
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        directions = 2 if self.bidirectional else 1
        finals: list[Any] = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs: list[Tensor] = []
            for direction in range(directions):
                y, final = self._run(x, layer * directions + direction, direction == 1, hx)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, dim=-1)
        states = tuple(zip(*finals, strict=True)) if self.mode == "LSTM" else tuple(finals)
        return x if batched else x.squeeze(0 if self.batch_first else 1), states

    def _run(self, x: Tensor, number: int, backwards: bool, hx: Any) -> tuple[Tensor, Any]:
        time = 1 if self.batch_first else 0
        x = x.flip(time) if backwards else x
        y, *state = self._layer(x, number, self._state(x, number, hx))
        final = tuple(s.squeeze(0) for s in state) if self.mode == "LSTM" else state[0].squeeze(0)
        return y.flip(time) if backwards else y, final

    def _layer(self, x: Tensor, number: int, state: Any) -> tuple[Tensor, ...]:
        names = recurrent_names(number, self.bidirectional, self.bias, self.proj_sizes[number] > 0)
        weights: list[Tensor] = [getattr(self, name) for name in names]
        if self.proj_sizes[number] == self.hidden_sizes[number]:
            return self._step_by_step(x, state, weights)
        run = getattr(cast("Any", torch), self.mode.lower())
        return run(x, state, weights, self.bias, 1, 0.0, self.training, False, self.batch_first)

    def _step_by_step(self, x: Tensor, state: Any, weights: list[Tensor]) -> tuple[Tensor, ...]:
        # torch.lstm tells that there is a projection by its width: it takes one as wide as the
        # hidden units for none.
        h, c = (s.squeeze(0) for s in state)
        outputs: list[Tensor] = []
        for step in x.unbind(1 if self.batch_first else 0):
            h, c = cast("Any", torch).lstm_cell(step, (h, c), *weights[:-1])
            h = F.linear(h, weights[-1])
            outputs.append(h)
        return torch.stack(outputs, 1 if self.batch_first else 0), h.unsqueeze(0), c.unsqueeze(0)

    def _state(self, x: Tensor, number: int, hx: Any) -> Any:
        if hx is not None:
            return (
                tuple(s[number].unsqueeze(0) for s in hx)
                if self.mode == "LSTM"
                else hx[number].unsqueeze(0)
            )
        rows = x.shape[0 if self.batch_first else 1]
        h = x.new_zeros(1, rows, self.proj_sizes[number] or self.hidden_sizes[number])
        return (h, x.new_zeros(1, rows, self.hidden_sizes[number])) if self.mode == "LSTM" else h

    def extra_repr(self) -> str:
        """The mode and the widths."""
        return f"{self.mode}, hidden_sizes={self.hidden_sizes}, bidirectional={self.bidirectional}"


def recurrent_names(number: int, bidirectional: bool, bias: bool, projected: bool) -> list[str]:
    """Parameter names of one layer and direction of a recurrent module, in torch's order."""
    directions = 2 if bidirectional else 1
    ending = f"_l{number // directions}" + ("_reverse" if number % directions else "")
    names = [
        "weight_ih",
        "weight_hh",
        *(["bias_ih", "bias_hh"] if bias else []),
        *(["weight_hr"] if projected else []),
    ]
    return [name + ending for name in names]
