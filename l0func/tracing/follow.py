"""Run a pure function once and follow its units through every operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from l0func import random
from l0func.internal import tree
from l0func.internal.interception import Interception
from l0func.pure.functional import PureModule
from l0func.pure.keyed import Keyed
from l0func.pure.written_out.mode import WrittenOut
from l0func.tracing import dataflow, layers, products
from l0func.tracing.call import Call, Followed, Transfer
from l0func.tracing.steady import is_steady
from l0func.tracing.trace import AbstractValue, Trace, whole_weight
from l0func.tracing.units import NONE

_READERS = (
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
)
TRANSFERS: dict[str, Transfer] = {**products.TRANSFERS, **layers.TRANSFERS, **dataflow.TRANSFERS}


def follow(
    fn: PureModule,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
) -> Trace:
    """The trace of ``fn(params, buffers, *inputs)``, in the modes that fn has.

    Args:
        fn: A pure function.
        params: Its parameters, flat.
        buffers: Its buffers, flat.
        inputs: Its inputs, on the CPU or wherever the parameters are.

    Raises:
        ValueError: Forward branches on data: it reads numbers out of a tensor that depends on
            inputs or parameters.
    """
    # Fresh objects: a tensor's identity is what its state is found by, and a caller may pass one
    # as two things.
    params, buffers = (
        {path: t.detach() for path, t in tensors.items()} for tensors in (params, buffers)
    )
    inputs = tree.map_tensors(lambda t: t.detach(), inputs)
    tracer = _Tracer({path: tuple(t.shape) for path, t in {**params, **buffers}.items()})
    for path, tensor in {**params, **buffers}.items():
        tracer.begin(path, tensor)
    fixed = tracer.trace.units.fixed(1, "they are joined with an input of the module")
    for _, tensor in tree.walk(inputs):
        if isinstance(tensor, Tensor):
            tracer.begin_input(tensor, fixed)
    with torch.no_grad(), WrittenOut(), _Norms(tracer), Keyed(random.key(0)), tracer:
        output, _ = fn.run(params, buffers, *inputs)
    tracer.trace.units.step = -1
    outputs = [tensor for _, tensor in tree.walk(output) if isinstance(tensor, Tensor)]
    for tensor in outputs:
        if tracer.value_of(tensor) is not None:
            tracer.trace.units.fix(tracer.labels(tensor), "they are an output of the module")
    tracer.trace.finish(tracer.used(outputs))
    return tracer.trace


class _Tracer(TorchDispatchMode, Followed):
    """States of all tensors of one call, by identity; they are kept alive, so that no identity is
    used twice.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        cast("Any", super()).__init__()
        self.trace = Trace(shapes)
        self._known: dict[int, tuple[Tensor, AbstractValue]] = {}
        self._steps: list[tuple[list[int], list[int]]] = []
        self._bases: dict[int, int] = {}
        self._data: set[int] = set()
        self._steady: set[int] = set()
        self._paused = False

    def steady(self, tensor: Tensor) -> bool:
        """Whether all of a tensor is constant where what makes its units is zero."""
        return id(tensor) in self._steady

    def begin(self, path: str, tensor: Tensor) -> None:
        """Know a tensor as a parameter or buffer."""
        self.set(
            tensor,
            whole_weight(path, tuple(tensor.shape)) if tensor.dim() else torch.full((), NONE),
        )
        if tensor.is_floating_point():
            # A table of positions or a mask, in integers, is no data: forward may read numbers out
            # of it.
            self._data.add(id(tensor))

    def begin_input(self, tensor: Tensor, labels: Tensor) -> None:
        """Know a tensor as an input."""
        self.set(tensor, labels.reshape((1,) * tensor.dim()).expand(tensor.shape))
        self._data.add(id(tensor))

    def set(self, tensor: Tensor, state: AbstractValue) -> None:
        """Know a tensor."""
        self._known[id(tensor)] = (tensor, state)

    def value_of(self, tensor: Tensor) -> AbstractValue | None:
        """What is known of a tensor."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else None

    def used(self, outputs: Iterable[Tensor]) -> set[int]:
        """The steps that these tensors were computed by."""
        live = {id(t) for t in outputs}
        steps: set[int] = set()
        for number in range(len(self._steps) - 1, -1, -1):
            read, made = self._steps[number]
            if live & set(made):
                steps.add(number)
                live |= set(read)
        return steps

    def rms_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None,
        eps: float | None,
    ) -> Tensor:
        """Follow an RMSNorm as one operation, before it falls into many."""
        self._paused = True
        try:
            output: Tensor = func(input, normalized_shape, weight, eps)
            self._log([id(t) for t in (input, weight) if t is not None], [id(output)])
            layers.rms_norm(self, input, len(normalized_shape), weight, output)
            return output
        finally:
            self._paused = False

    def _log_call(self, call: Call) -> None:
        made = [id(t) for t in call.outputs]
        read = [id(t) for t in call.tensors()]
        if call.func.is_view and read:
            self._bases.update(dict.fromkeys(made, read[0]))
        self._log(read, made, fresh=call.name in dataflow.FACTORIES)

    def _log(self, read: list[int], made: list[int], fresh: bool = False) -> None:
        self.trace.units.step = len(self._steps)
        # What is written into a view is in its base as well.
        for at in [at for at in made if at in read]:
            bases = self._bases_of(at)
            made, read = made + bases, read + bases
        self._steps.append((read, made))
        if self._data.intersection(read) and not fresh:
            self._data.update(made)

    def _bases_of(self, at: int) -> list[int]:
        found: list[int] = []
        while at in self._bases and self._bases[at] not in (*found, at):
            at = self._bases[at]
            found.append(at)
        return found

    def _check_branch(self, func: Any, args: tuple[Any, ...]) -> None:
        name: str = func.overloadpacket.__name__
        if name in _READERS and any(id(tensor) in self._data for tensor in _tensors_in(args)):
            raise ValueError(
                f"The module's forward branches on data: {name!r} reads numbers out of a tensor "
                f"that depends on inputs or "
                "parameters, so that what one example runs through says nothing of the next. Take "
                "the branch out, or write the "
                "groups by hand with l0func.group."
            )

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
        self._check_branch(func, args)
        output = func(*args, **kwargs)
        call = Call(func, args, kwargs, tuple(_tensors_in(output)))
        self._log_call(call)
        if not any(self.value_of(t) is not None for t in call.tensors()):
            for made in call.outputs:
                self.set(made, torch.full(tuple(made.shape), NONE))
            return output
        _transfer_for(func)(self, call)
        if is_steady(self, call):
            self._steady.update(id(made) for made in call.outputs)
        return output


class _Norms(Interception):
    """A context in which an RMSNorm is followed as one operation."""

    def __init__(self, tracer: _Tracer) -> None:
        def rule(
            mode: Interception,
            func: Any,
            input: Tensor,
            shape: Any,
            weight: Tensor | None = None,
            eps: float | None = None,
        ) -> Tensor:
            return tracer.rms_norm(func, input, shape, weight, eps)

        functions = (getattr(F, "rms_norm", None), getattr(torch, "rms_norm", None))
        super().__init__({function: rule for function in functions if function is not None})


def _transfer_for(func: Any) -> Transfer:
    name: str = func.overloadpacket.__name__
    known = TRANSFERS.get(name) or TRANSFERS.get(name.removesuffix("_"))
    if known is not None:
        return known
    if torch.Tag.pointwise in func.tags:
        return dataflow.pointwise
    if func.is_view:
        return dataflow.moved
    return dataflow.unknown


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _tensors_in(item)
