"""Steady tensors: those that become constant once the weights that make their units are zero.

If all weights that make a unit are zero, the unit outputs its bias, a constant. Compaction folds
such constants into the next layer's bias (:mod:`l0func.compaction.idle`). That is correct only if
the constant is the same for all inputs in all sizes, and not just for the traced example.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step

# Functions of one value with settings that belong to a module. Arithmetic with a number is not
# here: the number may be the length of the input.
_MAPS = frozenset(
    (
        "relu sigmoid tanh gelu silu softplus elu leaky_relu hardtanh hardswish hardsigmoid mish "
        "celu selu abs exp erf sin cos log_sigmoid_forward max_pool2d_with_indices "
        "max_pool3d_with_indices avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "mean amax cat stack clone _to_copy detach alias _unsafe_view"
    ).split()
)
_ARITHMETIC = frozenset({"add", "sub", "mul", "maximum", "minimum"})
_STEADY_PRODUCTS = frozenset({"mm", "addmm", "linear", "convolution", "_convolution"})
_NORMS_OF_BOTH_MODES = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"}
)
_NORM_IN_EVAL_MODE = "_native_batch_norm_legit_no_training"


def outputs_are_steady(step: Step, call: Call) -> bool:
    """Whether a call's outputs are steady.

    A product with zeros equals its bias. Any later operation must be known to turn constants into
    a constant. Others do not count: a sum over time grows with the input's length, and a mask may
    be all ones in one example.
    """
    name = call.name.removesuffix("_")
    tensors = list(call.tensors())
    if name in _STEADY_PRODUCTS:
        return _is_layer(step, call, name)
    if _is_norm_in_eval_mode(call, name):
        return _all_steady(step, tensors[:1])
    if name in _ARITHMETIC:
        return _is_plain_arithmetic(call, tensors) and _all_steady(step, tensors)
    return (name in _MAPS or call.func.is_view) and _all_steady(step, tensors)


def _is_norm_in_eval_mode(call: Call, name: str) -> bool:
    if name in _NORMS_OF_BOTH_MODES:
        is_training = call.args[5]
        return is_training is False
    return name == _NORM_IN_EVAL_MODE


def _is_layer(step: Step, call: Call, name: str) -> bool:
    """Whether the product is with a weight, and its bias is absent or a parameter vector."""
    if name == "addmm":
        bias, _, weight = call.args[:3]
    else:
        bias, weight = call.argument("bias"), call.args[1]
    if step.weight(weight) is None:
        return False
    return bias is None or (bias.dim() == 1 and step.weight(bias) is not None)


def _is_plain_arithmetic(call: Call, tensors: Sequence[Tensor]) -> bool:
    """Whether all operands are tensors with equal shapes, and no number is among them."""
    values = (*call.args, *call.kwargs.values())
    if any(isinstance(value, int | float) for value in values):
        return False
    return all(tensor.shape == tensors[0].shape for tensor in tensors)


def _all_steady(step: Step, tensors: Sequence[Tensor]) -> bool:
    return bool(tensors) and all(step.values.is_steady(tensor) for tensor in tensors)
