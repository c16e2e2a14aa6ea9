"""A context for one row, with handlers for the torch functions that depend on rows.

``per_example`` runs every row inside it: vmap shows the module one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.internal.context import compiling, is_mapped_with
from l0func.internal.interception import Interception, function_name
from l0func.internal.shared import needs_gradient
from l0func.internal.source_line import calling_line
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.autocast import CAST_FUNCTIONS, Autocast, as_autocast
from l0func.pure.memory_formats import LAYOUT_HANDLERS, without_format
from l0func.pure.row_writes import refused_in_row
from l0func.pure.written_out import norm
from l0func.pure.written_out.table import REPLACEMENTS, Replacement


class ByRow(Interception):
    """A context for one row of a vmapped batch.

    BatchNorm in training mode sees the whole batch. Attention and recurrent layers run written
    out, because vmap, jvp or double backward cannot follow torch's fused functions. Functions
    get their dtypes from autocast, as in :class:`l0func.pure.autocast.Autocast`; one context for
    both costs half of two.

    Args:
        row: A tensor mapped over the rows, such as the row's key.
        chunked: Whether vmap sees the batch in chunks, so that no statistics of the whole batch
            exist.
        several_masks: Whether another vmap gives each row several keys. Running statistics then
            stay as they are.
        note: A function that sees the result of every torch function, and ``row``; None for none.
    """

    def __init__(
        self,
        row: Tensor,
        chunked: bool,
        several_masks: bool = False,
        note: Callable[[Any, Tensor], None] | None = None,
    ) -> None:
        super().__init__(ROW_HANDLERS)
        self.row = row
        self.chunked = chunked
        self.several_masks = several_masks
        self.note = note
        self.last_states: list[Tensor] = []
        """The last states of recurrent layers, shape ``(layers * directions, N, H)``."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if "memory_format" in kwargs:
            kwargs = without_format(kwargs)
        handler = self.handlers.get(func)
        if handler is not None:
            # This context is off inside the handler, and autocast still acts there.
            with Autocast():
                result = handler(self, func, *args, **kwargs)
        elif func in CAST_FUNCTIONS:
            result = as_autocast(func, func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if self.note is not None:
            self.note(result, self.row)
        return result


def _norm_over_rows(
    mode: ByRow,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        x = _as_wide_as(running_mean, input)
        y = func(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return y.to(input.dtype)
    if mode.chunked:
        raise ValueError(
            f"BatchNorm in training mode{calling_line()} normalises by the whole batch, and "
            "chunk_size splits it: the statistics would be those of a chunk. Rows also run in "
            "chunks where forward branches on inputs that differ between them, such as a padding "
            "mask. Leave chunk_size and such branches out, or put the BatchNorm in eval mode."
        )
    if mode.several_masks:
        # Each mask has its own statistics of the batch. A plain call drops the running ones.
        running_mean = running_var = None
    return norm.batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, mode.row)


def _torch_norm_over_rows(
    mode: ByRow,
    func: Any,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Tensor:
    """``torch.batch_norm``: it has the arguments of F.batch_norm in another order."""
    running, rest = (running_mean, running_var), (weight, bias, training, momentum, eps)
    return _norm_over_rows(mode, F.batch_norm, input, *running, *rest)


def _refuse_training(mode: ByRow, func: Any, /, *args: Any, **named: Any) -> Any:
    """For batch normalisations that also return their statistics: vmap has those of a row."""
    if named.get("training", any(value is True for value in args)):
        raise ValueError(
            f"{function_name(func)} in training mode{calling_line()} normalises each row by "
            "itself, and BatchNorm normalises by the whole batch. Write "
            "torch.nn.functional.batch_norm."
        )
    return func(*args, **named)


def _as_wide_as(running: Tensor | None, x: Tensor) -> Tensor:
    """The input in the dtype of the running statistics, if that is wider."""
    # torch normalises a short float by float32 statistics, and vmap's rule does not.
    return x if running is None else x.to(torch.promote_types(x.dtype, running.dtype))


def _instance_norm(
    mode: ByRow,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats and running_mean is not None:
        raise ValueError(
            f"InstanceNorm with track_running_stats in training mode{calling_line()} averages its "
            "statistics over the batch, and per_example has no rule for that. Build it with "
            "track_running_stats=False, or put it in eval mode."
        )
    x = _as_wide_as(running_mean, input)
    y = func(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return y.to(input.dtype)


def _embedding(
    mode: ByRow,
    func: Any,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    # A gradient mapped over rows is dense: vmap has no sparse tensors.
    return func(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, False)


def _data_of_row(mode: ByRow, func: Any, x: Tensor) -> Tensor:
    # vmap has no x.data for a row's tensor; a detached tensor shares its storage too.
    return x.detach() if is_mapped_with(mode.row, [x]) else func(x)


def _requires_grad(mode: ByRow, func: Any, x: Tensor, requires_grad: bool = True) -> Tensor:
    # torch.func.grad marks the tensors that it has wrapped.
    is_wrapped: bool = untyped._C._functorch.is_gradtrackingtensor(x)
    if is_wrapped or not is_mapped_with(mode.row, [x]):
        return func(x, requires_grad)
    # vmap refuses it, and a row's tensor that is what it should be needs no mark.
    if needs_gradient(x) == requires_grad:
        return x
    raise refused_in_row(func, _GRADIENT)


def _added_product(
    mode: ByRow, func: Any, /, input: Tensor, *args: Any, beta: Any = 1, **named: Any
) -> Tensor:
    # Torch ignores the input if beta is 0, even NaNs, as in torch.empty; vmap multiplies them.
    added = torch.zeros_like(input) if beta == 0 else input
    return func(added, *args, beta=beta, **named)


_GRADIENT = "Differentiate with torch.func.grad inside the module, or write x = x.detach()."


def _refuse_packed(mode: ByRow, func: Any, *args: Any, **named: Any) -> Any:
    raise ValueError(
        "A packed sequence holds many rows of different lengths, and per_example gives the module"
        f"{calling_line()} one row at a time. Pass the padded sequences, and mask the outputs."
    )


def _one_row(replacement: Replacement) -> Callable[..., Any]:
    run = replacement.run

    def handler(mode: ByRow, func: Any, /, *args: Any, **named: Any) -> Any:
        result = as_autocast(func, run, args, named)
        if result is NotImplemented:
            return _refuse_packed(mode, func)
        if replacement.packs and not compiling():
            mode.last_states.extend(result[1:])
        return result

    return handler


_WITH_STATISTICS = ("native_batch_norm", "_native_batch_norm_legit")
_ROW_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    func: _one_row(replacement) for func, replacement in REPLACEMENTS.items()
}
ROW_HANDLERS: dict[Any, Callable[..., Any]] = {
    **_ROW_REPLACEMENTS,
    **LAYOUT_HANDLERS,
    F.batch_norm: _norm_over_rows,
    untyped.batch_norm: _torch_norm_over_rows,
    **{getattr(untyped, name): _refuse_training for name in _WITH_STATISTICS},
    F.instance_norm: _instance_norm,
    F.embedding: _embedding,
    **dict.fromkeys([torch.addmm, TENSOR.addmm, torch.addmv, TENSOR.addmv], _added_product),
    TENSOR.data.__get__: _data_of_row,
    TENSOR.requires_grad_: _requires_grad,
    untyped._pack_padded_sequence: _refuse_packed,
}
