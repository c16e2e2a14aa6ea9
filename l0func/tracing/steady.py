"""Which values are constant by construction, where the weights that make them are zero."""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call, Followed

# Functions of one value, whose settings are a module's: a number in arithmetic may be the length
# of the input.
_MAPS = frozenset(
    "relu sigmoid tanh gelu silu softplus elu leaky_relu hardtanh hardswish hardsigmoid mish celu "
    "selu abs exp erf sin cos "
    "log_sigmoid_forward max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d "
    "_adaptive_avg_pool3d mean amax cat stack clone _to_copy detach alias _unsafe_view".split()
)
_ARITHMETIC = frozenset({"add", "sub", "mul", "maximum", "minimum"})
_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"})


def is_steady(followed: Followed, call: Call) -> bool:
    """Whether the outputs are constant, for every input of every size, where what makes their
    units is zero.

    A product with zeros is its bias. From there on only what is known to make a constant of
    constants counts: a sum over time grows with its length, and a mask may be all ones in an
    example.
    """
    name = call.name.removesuffix("_")
    tensors = list(call.tensors())
    if name in ("mm", "addmm", "linear", "convolution", "_convolution"):
        weight = 2 if name == "addmm" else 1
        bias = call.args[0] if name == "addmm" else call.argument("bias")
        vector = bias is None or (followed.weight(bias) is not None and bias.dim() == 1)
        return followed.weight(call.args[weight]) is not None and vector
    if name == "_native_batch_norm_legit_no_training" or (
        name in _NORMS and call.args[5] is False
    ):
        return _steady(followed, tensors[:1])
    if name in _ARITHMETIC:
        numbers = any(
            isinstance(value, int | float) for value in (*call.args, *call.kwargs.values())
        )
        same = all(t.shape == tensors[0].shape for t in tensors)
        return not numbers and same and _steady(followed, tensors)
    return (name in _MAPS or call.func.is_view) and _steady(followed, tensors)


def _steady(followed: Followed, tensors: list[Tensor]) -> bool:
    return bool(tensors) and all(followed.steady(t) for t in tensors)
