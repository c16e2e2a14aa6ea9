"""Numbers from their bits and bits from numbers, as instructions."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.numba_names import intrinsic, ir, types


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 with these bits, a uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def bits_of(typing_context: Any, number: Any) -> Any:
    """A float32's bits, as a uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate
