"""Smaller modules that torch lacks: attention with few heads, recurrent layers of unequal width.

Compaction puts them in place of torch's modules. They keep the parameter names and need torch
only. Annotations are types and not text here: torch.jit.script reads them.
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.Module):
    """An ``nn.MultiheadAttention`` without some heads, called in the same way.

    Its parameters have the same names; the packed projection has outputs for the remaining heads
    only. Compaction makes it from the larger module's attributes, without a constructor.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> x = torch.ones(2, 5, 8)
        >>> fn, params, buffers = l0.make_functional(layer)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(layer, x))
        >>> gates = {gate.name: torch.full(gate.shape, 5.0) for gate in spec.gates}
        >>> heads = next(name for name, gate in gates.items() if gate.numel() == 2)
        >>> gates[heads] = torch.tensor([5.0, -5.0])
        >>> small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
        >>> type(small.self_attn).__name__, small.self_attn.num_heads
        ('FewerHeads', 1)
    """

    num_heads: int
    head_dim: int
    batch_first: bool
    dropout: float
    in_proj_weight: Tensor
    if TYPE_CHECKING:
        # torch.jit.script finds these types by itself: its encoder layer wants a bias that is
        # there not to be optional, and it takes no annotation of a submodule.
        in_proj_bias: Tensor | None
        out_proj: nn.Linear

    # torch's scripted encoder layer names it, on a road that it does not take here.
    merge_masks = nn.MultiheadAttention.merge_masks

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
        batched = query.dim() == 3
        q = self._heads(self._batch_first(query), 0)
        k = self._heads(self._batch_first(key), 1)
        v = self._heads(self._batch_first(value), 2)
        scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
        if attn_mask is not None:
            scores = scores + _as_scores(self._mask_by_head(attn_mask, scores), scores)
        if key_padding_mask is not None:
            padding = key_padding_mask.reshape(-1, 1, 1, scores.shape[-1])
            scores = scores + _as_scores(padding, scores)
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        heads = (weights @ v).transpose(1, 2).flatten(2)
        projected: Tensor = self.out_proj(heads)
        y = self._as_given(projected, batched)
        if not need_weights:
            return y, None
        shown = weights.mean(dim=1) if average_attn_weights else weights
        return y, shown if batched else shown.squeeze(0)

    def _batch_first(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _as_given(self, y: Tensor, batched: bool) -> Tensor:
        if not batched:
            return y.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1)

    def _heads(self, x: Tensor, projection: int) -> Tensor:
        """Queries, keys or values by head, for projection 0, 1 or 2."""
        width = self.num_heads * self.head_dim
        weight = self.in_proj_weight.narrow(0, projection * width, width)
        bias = self.in_proj_bias
        if bias is not None:
            bias = bias.narrow(0, projection * width, width)
        y = F.linear(x, weight, bias)
        by_head = y.reshape(y.shape[0], y.shape[1], self.num_heads, self.head_dim)
        return by_head.transpose(1, 2)

    def _mask_by_head(self, mask: Tensor, scores: Tensor) -> Tensor:
        n, _, length, keys = scores.shape
        if mask.dim() == 2:
            return mask
        if mask.dim() == 3 and mask.shape[0] != n * self.num_heads:
            raise ValueError(
                f"attn_mask with {mask.shape[0]} masks has a mask for every head, and "
                f"{self.num_heads} heads are left; give one of shape (L, S), or masks for the "
                "heads that are left."
            )
        return mask.reshape(n, self.num_heads, length, keys)

    def extra_repr(self) -> str:
        """The heads' number and size."""
        return (
            f"num_heads={self.num_heads}, head_dim={self.head_dim}, batch_first={self.batch_first}"
        )


def _as_scores(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))


class UnequalRecurrent(nn.Module):
    """An ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` with unequal widths in its layers or directions.

    It is called as torch's module and has the same parameter names. Hidden states with unequal
    widths cannot be stacked, so they are tuples: one tensor for each layer and direction.
    Compaction makes it from the larger module's attributes, without a constructor.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> class Tagger(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lstm = torch.nn.LSTM(3, 4, num_layers=2)
        ...         self.out = torch.nn.Linear(4, 2)
        ...
        ...     def forward(self, x):
        ...         return self.out(self.lstm(x)[0])
        >>> net, x = Tagger(), torch.ones(5, 2, 3)
        >>> fn, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
        >>> first, second = (gate.name for gate in spec.gates)
        >>> gates = {first: torch.tensor([5.0, -5.0, 5.0, -5.0]), second: torch.full((4,), 5.0)}
        >>> l0.to_module(*l0.compact(fn, params, gates, buffers, spec)).lstm
        UnequalRecurrent(LSTM, hidden_sizes=(2, 4), bidirectional=False)
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
        """Outputs, and final hidden states for every layer and direction."""
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(batch_dim)
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
        hidden = tuple(zip(*finals, strict=True)) if self._is_lstm() else tuple(finals)
        return x if batched else x.squeeze(batch_dim), hidden

    def _is_lstm(self) -> bool:
        return self.mode == "LSTM"

    def _time_dim(self) -> int:
        return 1 if self.batch_first else 0

    def _run(self, x: Tensor, number: int, backwards: bool, hx: Any) -> tuple[Tensor, Any]:
        """Output and final hidden state for one layer and direction; LSTMs have two states."""
        x = x.flip(self._time_dim()) if backwards else x
        y, *finals = self._layer(x, number, self._hidden(x, number, hx))
        y = y.flip(self._time_dim()) if backwards else y
        if self._is_lstm():
            return y, tuple(final.squeeze(0) for final in finals)
        return y, finals[0].squeeze(0)

    def _layer(self, x: Tensor, number: int, hidden: Any) -> tuple[Tensor, ...]:
        projected = self.proj_sizes[number] > 0
        names = recurrent_names(number, self.bidirectional, self.bias, projected)
        weights: list[Tensor] = [getattr(self, name) for name in names]
        if self.proj_sizes[number] == self.hidden_sizes[number]:
            return self._step_by_step(x, hidden, weights)
        run = getattr(cast("Any", torch), self.mode.lower())
        return run(x, hidden, weights, self.bias, 1, 0.0, self.training, False, self.batch_first)

    def _step_by_step(self, x: Tensor, hidden: Any, weights: list[Tensor]) -> tuple[Tensor, ...]:
        # torch.lstm sees from the widths whether there is a projection, and would miss one that is
        # as wide as the hidden units.
        h, c = (s.squeeze(0) for s in hidden)
        cell: Any = cast("Any", torch).lstm_cell
        outputs: list[Tensor] = []
        for step in x.unbind(self._time_dim()):
            h, c = cell(step, (h, c), *weights[:-1])
            h = F.linear(h, weights[-1])
            outputs.append(h)
        return torch.stack(outputs, self._time_dim()), h.unsqueeze(0), c.unsqueeze(0)

    def _hidden(self, x: Tensor, number: int, hx: Any) -> Any:
        """The hidden state that a layer and direction starts from: given, or zeros."""
        if hx is not None and self._is_lstm():
            return tuple(s[number].unsqueeze(0) for s in hx)
        if hx is not None:
            return hx[number].unsqueeze(0)
        batch = x.shape[0 if self.batch_first else 1]
        width = self.hidden_sizes[number]
        h = x.new_zeros(1, batch, self.proj_sizes[number] or width)
        return (h, x.new_zeros(1, batch, width)) if self._is_lstm() else h

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which asks for a module to compile in place of this one.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"torch.jit.script cannot compile an {self.mode} with layers or directions of unequal "
            f"widths; these keep {self.hidden_sizes} units. Use torch.export or torch.jit.trace, "
            "or name the units of all layers in one group, so that torch's own module remains."
        )

    def extra_repr(self) -> str:
        """The mode and the widths."""
        return f"{self.mode}, hidden_sizes={self.hidden_sizes}, bidirectional={self.bidirectional}"


def recurrent_names(number: int, bidirectional: bool, bias: bool, projected: bool) -> list[str]:
    """The parameter names in one layer and direction, in torch's order.

    Args:
        number: Number of the layer and direction; a layer's two directions are neighbours.
        bidirectional: Whether the module has two directions.
        bias: Whether it has biases.
        projected: Whether this layer and direction has a projection.
    """
    layer, direction = divmod(number, 2 if bidirectional else 1)
    ending = f"_l{layer}_reverse" if direction else f"_l{layer}"
    names = ["weight_ih", "weight_hh"]
    if bias:
        names += ["bias_ih", "bias_hh"]
    if projected:
        names.append("weight_hr")
    return [name + ending for name in names]


class Constant(nn.Module):
    """A linear layer or a convolution without inputs: it outputs its bias, or zeros.

    Its weight has no entries, and its shape tells the number of outputs. Compaction makes it from
    the larger module's attributes, without a constructor.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
        ...
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> net, x = Block().eval(), torch.ones(2, 3)
        >>> fn, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
        >>> gates = {"up": torch.full((4,), -5.0)}  # every hidden unit closes
        >>> small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
        >>> l0.to_module(*small)
        Block(
          (up): Constant(outputs=1)
          (down): Constant(outputs=3)
        )
    """

    weight: Tensor
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padded: tuple[int, ...]
    if TYPE_CHECKING:
        bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """The bias at every place of the output."""
        spatial = self.weight.dim() - 2
        bias = self.bias
        outputs = max(self.weight.shape[0], self.weight.shape[1])
        values = self.weight.new_zeros(outputs) if bias is None else bias
        if spatial == 0:
            flat = list(input.shape[:-1])
            flat.append(outputs)
            return values.expand(flat).clone()
        shape = list(input.shape[: input.dim() - spatial - 1])
        shape.append(outputs)
        for dim in range(spatial):
            kernel = self.dilation[dim] * (self.weight.shape[2 + dim] - 1) + 1
            size = input.shape[input.dim() - spatial + dim] + self.padded[dim]
            shape.append((size - kernel) // self.stride[dim] + 1)
            values = values.unsqueeze(-1)
        return values.expand(shape).clone()

    def extra_repr(self) -> str:
        """The number of outputs."""
        return f"outputs={max(self.weight.shape[:2])}"
