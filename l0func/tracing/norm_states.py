"""Follow the statistic of a norm that forward writes out, from the reduction to the scale.

After every step the tracer calls :func:`follow_norms`. A statistic may be rooted, inverted,
multiplied by numbers, and bounded by or added to eps. Then it scales units; any other use of it
keeps them. The scaled output is followed to the parameter that scales it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step
from l0func.tracing.units import has_units
from l0func.tracing.values import Affine, NormOutput, NormState, Statistic
from l0func.tracing.written_norms import Eps, Powers, WrittenNorm

_COPIES = frozenset("_to_copy clone detach alias contiguous _unsafe_view lift_fresh".split())
_ROOTS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}
_BOUNDS = frozenset({"add", "clamp", "clamp_min", "maximum"})
_NEUTRAL = Powers(0.0, 0.0)
_OTHER_FUNCTION = Affine(1.0, None)


def begin_norm(step: Step, labels: Tensor, dims: Sequence[int], reason: str, call: Call) -> None:
    """Begin a norm: a sum, mean or vector norm over units may scale them later.

    Args:
        step: The step.
        labels: The labels of the input.
        dims: The dimensions that the reduction runs over.
        reason: Why the units stay if the result is used in another way.
        call: The reduction.
    """
    power = -1.0 if call.name == "mean" else 0.0
    powers = Powers(power, power)
    norm = WrittenNorm(labels, dims, reason, step.number, powers)
    step.trace.begin_norm(norm)
    step.values.set_norm_state(call.outputs[0], Statistic(norm, powers))


def follow_norms(step: Step, call: Call) -> None:
    """Give the outputs of a call their states as parts of norms.

    Args:
        step: The step.
        call: The call; if it begins a statistic, its transfer function has set the state.
    """
    operands = list(call.tensors())
    states = [step.values.norm_state(tensor) for tensor in operands]
    if _begins_statistic(step, call):
        _mark_stray(states)
        return
    if any(states) or _is_function_of_weights(step, call, operands):
        made = _made_state(step, call, operands)
    elif call.writes_in_place:
        made = None
    else:
        return
    for output in call.outputs:
        step.values.set_norm_state(output, made)


def _begins_statistic(step: Step, call: Call) -> bool:
    known = [step.values.norm_state(output) for output in call.outputs]
    return any(known) and not call.writes_in_place


def _mark_stray(states: Sequence[NormState | None]) -> None:
    for state in states:
        if isinstance(state, Statistic):
            state.norm.is_stray = True


def _is_function_of_weights(step: Step, call: Call, operands: Sequence[Tensor]) -> bool:
    if _is_copy(call) or not operands:
        return False
    return all(step.weight(tensor) is not None for tensor in (*operands, *call.outputs))


def _is_copy(call: Call) -> bool:
    return call.func.is_view or call.name in _COPIES


def _made_state(step: Step, call: Call, operands: Sequence[Tensor]) -> NormState | None:
    known = [step.values.norm_state(tensor) for tensor in operands]
    statistics = [state for state in known if isinstance(state, Statistic)]
    outputs = [state for state in known if isinstance(state, NormOutput)]
    if _is_copy(call):
        return known[0]
    arithmetic = _with_numbers(step, call, operands)
    if len(statistics) == 1:
        state = statistics[0]
        if arithmetic is None:
            made = _norm_output(step, call, state)
        else:
            made = _bounded(state, arithmetic)
        state.norm.is_stray |= made is None
        return made
    if statistics:
        _mark_stray(statistics)
        return None
    if len(outputs) == 1:
        return _after_output(step, call, outputs[0], arithmetic)
    if step.weight(call.outputs[0]) is None:
        return None
    return _OTHER_FUNCTION if arithmetic is None else _affine(step, arithmetic)


class _Arithmetic(NamedTuple):
    """An operation on one tensor and numbers.

    Attributes:
        name: The operation.
        tensor: The tensor.
        is_first: Whether it is the first argument.
        numbers: The numbers.
    """

    name: str
    tensor: Tensor
    is_first: bool
    numbers: list[float]

    @property
    def number(self) -> float:
        """The only number; NaN if there are several or none."""
        return self.numbers[0] if len(self.numbers) == 1 else math.nan


def _with_numbers(step: Step, call: Call, operands: Sequence[Tensor]) -> _Arithmetic | None:
    """The call as an operation on one tensor and numbers; None if it has several tensors."""
    numbers: list[float] = []
    tensors: list[Tensor] = []
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(float(value))
        elif isinstance(value, Tensor) and _holds_number(step, value):
            numbers.append(float(value))
        elif isinstance(value, Tensor):
            tensors.append(value)
    if len(tensors) != 1 or call.argument("alpha", 1) != 1:
        return None
    name = call.name.removesuffix("_")
    return _Arithmetic(name, tensors[0], call.args[0] is tensors[0], numbers)


def _holds_number(step: Step, tensor: Tensor) -> bool:
    if step.values.norm_state(tensor) is not None or step.weight(tensor) is not None:
        return False
    is_real = not tensor.is_complex() and not tensor.is_meta
    return is_real and tensor.numel() == 1 and not has_units(step.labels(tensor))


def _bounded(state: Statistic, call: _Arithmetic) -> Statistic | None:
    """A statistic after an operation with numbers; None if that is not followed."""
    norm, powers = state
    if call.name in _ROOTS:
        return Statistic(norm, powers.times(_ROOTS[call.name]))
    if call.name == "pow" and call.is_first:
        return Statistic(norm, powers.times(call.number))
    if call.name in _BOUNDS:
        norm.eps += [Eps(number, powers) for number in call.numbers]
        return state
    if call.name == "mul":
        return Statistic(norm, powers.plus(_power_of(call.number, norm.count)))
    if call.name == "div":
        factor = _power_of(call.number, norm.count)
        if call.is_first:
            return Statistic(norm, powers.plus(factor.times(-1.0)))
        return Statistic(norm, factor.plus(powers.times(-1.0)))
    return None


def _norm_output(step: Step, call: Call, state: Statistic) -> NormOutput | None:
    """The output of a norm, where a statistic multiplies or divides units or a weight."""
    name, operands = call.name.removesuffix("_"), list(call.tensors())
    if name not in ("mul", "div") or len(operands) != 2:
        return None
    first, second = operands
    is_first = step.values.norm_state(first) is state
    other = second if is_first else first
    if (name == "div" and is_first) or not has_units(step.labels(other)):
        return None
    norm = state.norm
    powers = state.powers.times(-1.0) if name == "div" else state.powers
    norm.is_applied, norm.powers = True, powers
    note_weight(step, norm, other)
    return NormOutput(norm, powers)


def _after_output(
    step: Step, call: Call, state: NormOutput, arithmetic: _Arithmetic | None
) -> NormOutput | None:
    """The state of a norm's output after one more product."""
    norm, powers = state
    name, operands = call.name.removesuffix("_"), list(call.tensors())
    if arithmetic is not None:
        factor = _power_of(arithmetic.number, norm.count)
        if name == "mul":
            norm.powers = powers.plus(factor)
        elif name == "div" and arithmetic.is_first:
            norm.powers = powers.plus(factor.times(-1.0))
        else:
            return None
        return NormOutput(norm, norm.powers)
    if name != "mul" or len(operands) != 2:
        return None
    for tensor in operands:
        note_weight(step, norm, tensor)
    return state


def note_weight(step: Step, norm: WrittenNorm, tensor: Tensor | None) -> None:
    """Note a parameter that scales the output of a norm, with the number added to it before.

    Args:
        step: The step.
        norm: The norm.
        tensor: A factor of its output; ignored if it is no parameter.
    """
    weight = step.weight(tensor)
    if tensor is None or weight is None:
        return
    state = step.values.norm_state(tensor)
    factor, offset = state if isinstance(state, Affine) else Affine(1.0, 0.0)
    norm.weights[weight.path] = None if offset is None else offset / factor


def _affine(step: Step, call: _Arithmetic) -> Affine:
    """The state of a weight after arithmetic with a number."""
    known = step.values.norm_state(call.tensor)
    factor, offset = known if isinstance(known, Affine) else Affine(1.0, 0.0)
    number = call.number
    if offset is None or math.isnan(number):
        return _OTHER_FUNCTION
    if call.name == "add":
        return Affine(factor, offset + number)
    if call.name == "sub":
        return Affine(factor, offset - number) if call.is_first else _OTHER_FUNCTION
    if call.name == "rsub":
        return Affine(-factor, number - offset)
    if call.name == "mul" and number:
        return Affine(factor * number, offset * number)
    if call.name == "div" and call.is_first and number:
        return Affine(factor / number, offset / number)
    return _OTHER_FUNCTION


def _power_of(number: float, count: int) -> Powers:
    """The power of the count that a number may be: 1, a half, or their negatives."""
    if not 0 < number < math.inf or count < 2:
        return _NEUTRAL
    power = math.log(number) / math.log(count)
    rounded = round(2 * power) / 2
    is_power = abs(power - rounded) < 1e-5 and 0 < abs(rounded) <= 1
    return Powers(0.0, rounded) if is_power else _NEUTRAL
