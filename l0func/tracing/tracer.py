"""The torch mode that sees every operation and applies its transfer function.

Only :func:`l0func.tracing.follow.follow` uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l0func.internal.source_line import calling_line
from l0func.tracing.call import Call, operation_name, tensors_in_lists
from l0func.tracing.history import History
from l0func.tracing.multiply_adds import multiply_adds
from l0func.tracing.norm_states import follow_norms
from l0func.tracing.steady import outputs_are_steady
from l0func.tracing.step import Step
from l0func.tracing.trace import Trace
from l0func.tracing.transfers import transfer_for
from l0func.tracing.transfers.copies import FACTORIES
from l0func.tracing.transfers.norms import rms_norm
from l0func.tracing.units import INPUT, NONE, OUTPUT_REASON, has_units, no_units
from l0func.tracing.values import AbstractValues, Statistic, whole_weight

_READ_NUMBERS = frozenset(
    "_local_scalar_dense item equal is_nonzero nonzero masked_select _unique2 unique_dim".split()
)
"""Operations that turn data into Python numbers or into shapes; forward can branch on these."""


_NO_TENSOR = (
    "The output on the examples holds no tensor, so nothing tells which units it depends on. "
    "Return the tensors that forward computes."
)


def _check_has_operations(func: Any) -> None:
    """Refuse operators that run functions, such as ``torch.cond``.

    Raises:
        ValueError: The operator is one of these.
    """
    if not hasattr(func, "overloadpacket"):
        raise ValueError(
            f"The module's forward calls {func.name()!r}, an operator that runs functions of its "
            f"own{calling_line()}, and a trace cannot follow these. Use plain operations; a "
            "network of transformers takes attn_implementation='sdpa' or 'eager'."
        )


def _check_has_shapes(call: Call) -> None:
    """Refuse nested tensors: without a shape they have no labels.

    Raises:
        ValueError: The call returns one.
    """
    if any(made.is_nested for made in call.outputs):
        raise ValueError(
            f"The module's forward makes a nested tensor, in {call.name!r}{calling_line()}, and "
            "a trace cannot follow it: its rows have sizes of their own. Pad the rows to one "
            "size, and mask the padding."
        )


def _packed() -> str:
    return (
        f"A trace cannot follow a packed sequence, which forward runs{calling_line()}. Call "
        "l0func.unit_groups on a module with the same layers whose forward does not call "
        "pack_padded_sequence: its groups are right for this module too, whose layers have the "
        "same names. Then call compact without example_inputs."
    )


def _within(place: str) -> str:
    """The words for a place in an output; the whole output needs none."""
    return "" if place == "output" else f", {place}"


class Tracer(TorchDispatchMode):
    """A context that writes the trace of one forward pass.

    Args:
        shapes: ``{path: shape}`` for every parameter and buffer.
    """

    # Otherwise torch refuses these operators itself, in words about this mode.
    supports_higher_order_operators = True

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        cast("Any", super()).__init__()
        self.trace = Trace(shapes)
        self._values = AbstractValues()
        self._history = History()
        self._paused = False
        self._packed: set[int] = set()

    def begin_parameter(self, path: str, tensor: Tensor) -> None:
        """Make a tensor known as a parameter or buffer."""
        shape = tuple(tensor.shape)
        self._values.set(tensor, whole_weight(path, shape) if shape else no_units(shape))
        if tensor.is_floating_point() or tensor.is_complex():
            # Integers, such as a table of positions or a mask, are not data: training does not
            # change them, so forward may read numbers out of them.
            self._history.mark_data(tensor)

    def begin_input(self, tensor: Tensor) -> None:
        """Make a tensor known as an input to the module."""
        label = torch.full((1,) * tensor.dim(), INPUT, device="cpu")
        self._values.set(tensor, label.expand(tensor.shape))
        if tensor.is_floating_point() or tensor.is_complex():
            # Forward may read integers, such as a padding mask: they choose between ways to
            # compute, and no weight has a part in the choice.
            self._history.mark_data(tensor)

    def finish(
        self, visible: Sequence[tuple[str, Tensor]], hidden: Iterable[tuple[Tensor, TypeError]]
    ) -> Trace:
        """End the trace: the module returned these tensors, so their units are kept.

        Args:
            visible: The tensors in the output, each with its place.
            hidden: The tensors in objects that cannot be taken apart, each with an error.
        """
        places = {id(tensor): place for place, tensor in visible}
        outputs = [tensor for _, tensor in visible]
        outside = self._step(None)
        if not outputs:
            self.trace.output_error = ValueError(_NO_TENSOR)
        for tensor, error in hidden:
            if has_units(outside.labels(tensor)):
                outputs.append(tensor)
                self.trace.output_error = error
        for tensor in outputs:
            state = self._values.norm_state(tensor)
            if isinstance(state, Statistic):
                state.norm.is_stray = True
            if outside.value_of(tensor) is not None:
                place = places.get(id(tensor), "output")
                outside.fix(outside.labels(tensor), OUTPUT_REASON + _within(place))
        self.trace.finish(self._history.used(outputs))
        return self.trace

    def rms_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None,
        eps: float | None,
    ) -> Tensor:
        """Run an RMSNorm and follow it as one step, before torch splits it into operations."""
        # Paused to the end of the step: operations on labels are not part of the forward pass.
        self._paused = True
        try:
            output: Tensor = func(input, normalized_shape, weight, eps)
            read = [input] if weight is None else [input, weight]
            step = self._step(self._history.add(read, [output]))
            rms_norm(step, input, len(normalized_shape), weight, eps, output)
        finally:
            self._paused = False
        return output

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        _check_has_operations(func)
        self._check_branch(func, args)
        output = func(*args, **kwargs)
        call = Call(func, args, kwargs, tuple(tensors_in_lists(output)))
        _check_has_shapes(call)
        before = self.trace.counted
        self._follow(call)
        self._count_rest(call, self.trace.counted - before)
        return output

    def _count_rest(self, call: Call, counted: float) -> None:
        """Count the multiply-adds that the transfer function did not, for the last parameter."""
        rest = multiply_adds(call) - round(counted)
        if rest <= 0:
            return
        weights = [self._step(None).weight(tensor) for tensor in call.tensors()]
        last = [weight for weight in weights if weight is not None and len(weight.shape) > 1]
        if last:
            self.trace.count(last[-1], rest / last[-1].size)
        else:
            self.trace.count_product((NONE, NONE), rest)

    def _follow(self, call: Call) -> None:
        """Give a call's outputs their abstract values."""
        step = self._step(self._log(call))
        if not any(step.value_of(tensor) is not None for tensor in call.tensors()):
            for made in call.outputs:
                step.set(made, no_units(tuple(made.shape)))
            return
        if call.name in _READ_NUMBERS and not call.outputs:
            return
        transfer_for(call.func)(step, call)
        if call.name not in FACTORIES:
            follow_norms(step, call)
        if outputs_are_steady(step, call):
            self._values.mark_steady(call.outputs)

    def _log(self, call: Call) -> int:
        """Record a call in the history, and return the step's number."""
        read = list(call.tensors())
        if call.func.is_view and read:
            self._history.mark_views(read[0], call.outputs)
        number = self._history.add(read, call.outputs, only_sizes=call.name in FACTORIES)
        if call.name == "_pack_padded_sequence":
            self._packed.add(number)
        return number

    def _step(self, number: int | None) -> Step:
        return Step(number, self.trace, self._values)

    def _are_lengths(self, read: Iterable[Tensor]) -> bool:
        """Whether integers come out of a packed sequence: they count rows, and choose nothing."""
        integers = [tensor for tensor in read if tensor.dtype == torch.int64]
        return bool(self._packed & self._history.used(integers))

    def _check_branch(self, func: Any, args: tuple[Any, ...]) -> None:
        """Raise ValueError if the operation turns data into numbers."""
        name = operation_name(func)
        read = list(tensors_in_lists(args))
        if name in _READ_NUMBERS and self._history.depends_on_data(read):
            if self._are_lengths(read):
                raise ValueError(_packed())
            raise ValueError(
                f"The module's forward branches on data: {name!r} reads numbers out of a tensor "
                f"that depends on inputs or parameters{calling_line()}, so other inputs may run "
                "other operations than the examples. Take the branch out, or write the groups by "
                "hand with l0func.group. Forward may read integer and boolean inputs, such as a "
                "padding mask."
            )
