"""As :mod:`.bits`, for float64."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.numba_names import intrinsic, ir, types


@intrinsic
def double_of(typing_context: Any, bits: Any) -> Any:
    """The float64 with these bits, a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@intrinsic
def double_bits(typing_context: Any, number: Any) -> Any:
    """A float64's bits, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), generate
