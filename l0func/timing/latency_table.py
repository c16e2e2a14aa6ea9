"""``latency_table``: a network's layers timed inside the network, at many widths."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import nn

from l0func.compaction.examples import check_rows
from l0func.costs.latency import LatencyTable
from l0func.costs.machine import Machine
from l0func.internal.outputs import visible_tensors
from l0func.internal.scalars import integer, with_type
from l0func.internal.waiting import line_when_slow
from l0func.internal.whole import check_whole
from l0func.pure.example_kinds import explained_kinds
from l0func.pure.functional import Functional, make_functional
from l0func.pure.inputs import Inputs, read_examples
from l0func.spec.build import gate_spec
from l0func.spec.parts import Group
from l0func.timing.bench import Bench, TimedNetwork, without_fast_path
from l0func.timing.clocks import Clock, clock_on
from l0func.timing.fit import fitted, widths_of
from l0func.timing.networks import Networks
from l0func.timing.widths import Width, widths_by_layer

_FOLDS = 5


def latency_table(
    module: nn.Module,
    groups: Mapping[str, Group],
    example_inputs: Any,
    *,
    multiple: int = 1,
    seconds: float = 60.0,
) -> LatencyTable:
    """Measure how a network's time depends on its open units, on this machine.

    Smaller copies of the network run on the inputs, with widths spread over the whole range of
    every group. In each run every layer is timed where it stands, and the whole call without the
    timing of layers; the layers' times are scaled to add up to it. Activations and products
    between activations count with the layer before them. Each layer's times are fitted on a grid
    of its input and output widths. Before each call a network of fixed size is timed too, so that
    other work on the machine cancels.

    torch's fast path for ``nn.TransformerEncoderLayer`` is off, since attention that has lost
    heads does not take it. A layer that keeps all its heads may be faster than the table says.

    Args:
        module: Any module. It is timed in eval mode, whatever its own, on the device where it is.
        groups: The groups of units, from :func:`l0func.unit_groups`.
        example_inputs: The inputs of its ``forward``, of the size that the times are for: a
            tensor, a tuple of inputs, or a dict of keyword inputs.
        multiple: Measure numbers of units that are multiples of it, such as 8. A group of at most
            so many, such as attention heads, is measured at any number.
        seconds: About how long to measure. A slow network takes longer: it is called some 240
            times at least.

    Returns:
        The table, for ``lagrangian(measure="ms")``, :func:`l0func.expected_ms` and
        :func:`l0func.realised_ms`.

    Raises:
        TypeError: ``module`` is not an eager nn.Module, or its forward does not take the inputs.
        ValueError: There is no group; the inputs are on another device than the module, or that
            device is neither a CPU nor a CUDA device; or a number is out of its range.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.ones(2, 4)
        >>> table = l0.latency_table(net, l0.unit_groups(net, x), x, seconds=0.1)
        >>> table.groups
        {'0': 3}
    """
    return measured_table(module, groups, example_inputs, multiple, seconds, None)


def measured_table(
    module: nn.Module,
    groups: Mapping[str, Group],
    example_inputs: Any,
    multiple: int,
    seconds: float,
    clock: Clock | None,
) -> LatencyTable:
    """:func:`latency_table` by a given clock; None is the device's own."""
    check_whole("latency_table", module=module)
    multiple = integer(multiple, "multiple")
    _check_numbers(multiple, seconds)
    if not groups:
        raise ValueError(
            "A latency table needs groups, whose units can go: l0func.unit_groups finds them."
        )
    fn, params, buffers = make_functional(module)
    function = Functional(fn.eval(), params, buffers)
    inputs = read_examples(fn, example_inputs)
    check_rows(inputs)
    device = _device(function, inputs)
    with torch.no_grad():
        spec = gate_spec(params, groups=groups, buffers=buffers)
        networks = Networks(function, spec, multiple)
        bench = Bench(networks, inputs, clock or clock_on(device))
        with line_when_slow(
            f"l0func.latency_table: {type(module).__name__} is timed at many widths for about "
            f"{seconds:.0f} s. Keep the machine quiet."
        ):
            with without_fast_path():
                runs = bench.runs(seconds)
            widths = widths_by_layer(networks, bench.call)
    tensors = visible_tensors((inputs.args, inputs.kwargs))
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
    dtype = str(next(iter(params.values())).dtype)
    machine = Machine.here(device, dtype, shapes)
    table = fitted(networks, widths, runs, machine)
    return replace(table, error=_error(networks, widths, runs, machine))


def _check_numbers(multiple: int, seconds: Any) -> None:
    if multiple < 1:
        raise ValueError(f"multiple is a number of units, at least 1; got {multiple}.")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds is a number; got {with_type(seconds)}.")
    if not 0.0 < seconds < inf:
        raise ValueError(f"seconds is a finite number above 0; got {seconds}.")


def _device(function: Functional, inputs: Inputs) -> torch.device:
    """The device of the network, after one call of it on the inputs.

    Raises:
        ValueError: Some inputs do not suit it.
    """
    tensors = {**function.params, **function.buffers}
    with explained_kinds(inputs, tensors), torch.no_grad():
        inputs.call(*function)
    return next(iter(tensors.values())).device


def _error(
    networks: Networks,
    widths: Mapping[str, tuple[Width, ...]],
    runs: Sequence[TimedNetwork],
    machine: Machine,
) -> float:
    """The median relative error for runs that are left out of the fit, fold by fold."""
    ends, others = list(runs[:2]), list(runs[2:])
    errors: list[float] = []
    for fold in range(_FOLDS):
        left_out = others[fold::_FOLDS]
        kept = [run for number, run in enumerate(others) if number % _FOLDS != fold]
        table = fitted(networks, widths, ends + kept, machine)
        for run in left_out:
            predicted = float(table.at(widths_of(networks, table, run.units)))
            errors.append(abs(predicted / run.total - 1))
    return statistics.median(errors)
